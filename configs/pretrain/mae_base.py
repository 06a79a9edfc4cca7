"""MAE, ViT-Base, 1600 epochs on ImageNet (MAE, PRETRAIN.md): the teacher of D-MAE and D²-MAE.

lvit train --config=configs/pretrain/mae_base.py --workdir=runs/mae_base
"""

from lvit_jax.configs import common


def get_config():
    config = common.base()
    config.model.name = "vit_base"
    config.objective = common.mae(decoder="base")
    config.train.epochs = 1600.0
    config.data.crop_scale = (0.2, 1.0)  # MAE, main_pretrain.py; MAE-Lite crops at (0.08, 1)
    config.data.interpolation = "bicubic"
    return config
