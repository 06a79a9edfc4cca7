"""Fine-tuning with relative positions in miniature, on the bundled digits, from a pre-trained encoder.

From scratch it hardly starts: the recipe draws the patch embedding from N(0, 0.02), which for patches of 4 pixels, not
768, leaves little beside the positions.

lvit train --config=configs/demo/finetune_rpe.py --workdir=runs/demo_rpe --config.init.encoder=runs/demo_mae
"""

from lvit_jax.configs import labelled
from lvit_jax.configs.demo import finetune


def get_config():
    return labelled.relative(finetune.get_config(), "vit_micro_rpe", qv_bias=False)
