"""ImageNet fine-tuning of a MoCo-v3 ViT-Tiny: MAE-Lite's improved recipe with layer decay 0.75 (recipes 3.1, 5.1).

76.8 top-1 (MAE-Lite MOCOV3.md).

lvit train --config=configs/finetune/moco_tiny.py --workdir=runs/moco_ft --config.init.encoder=runs/moco
"""

from lvit_jax.configs import labelled


def get_config():
    config = labelled.finetune()
    config.optim.layer_decay = 0.75
    return config
