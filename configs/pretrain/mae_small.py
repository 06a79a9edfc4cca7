"""MAE-Lite: ViT-Small (12 heads), MAE, 400 epochs on ImageNet. After fine-tuning: 82.1 top-1 (MAE-Lite SMALL.md).

lvit train --config=configs/pretrain/mae_small.py --workdir=runs/mae_small
"""

from lvit_jax.configs import common


def get_config():
    config = common.base()
    config.model.name = "vit_small"
    config.objective = common.mae(decoder="small")
    return config
