"""Fine-tuning with relative positions in miniature, on the bundled digits; from scratch where `init` is empty.

lvit train --config=configs/demo/finetune_rpe.py --workdir=runs/demo_rpe --config.init.encoder=runs/demo_mae
"""

from lvit_jax.configs import common
from lvit_jax.configs.demo import finetune


def get_config():
    return common.relative(finetune.get_config(), "vit_micro_rpe", qv_bias=False)
