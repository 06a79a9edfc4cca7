"""MAE-Lite: ViT-Tiny (12 heads), MAE, 400 epochs on ImageNet. After fine-tuning: 78.0 top-1 (MAE-Lite README.md).

lvit train --config=configs/pretrain/mae_tiny.py --workdir=runs/mae
"""

from lvit_jax.configs import common


def get_config():
    config = common.base()
    config.objective = common.mae(decoder="tiny")
    return config
