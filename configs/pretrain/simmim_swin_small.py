"""SimMIM on Swin C=96 (MAE-Lite's "swin_small", the size of Swin-T), 800 epochs on ImageNet: the teacher of D² on Swin.

MAE-Lite releases its weights without their config (SIMMIM.md); the numbers are those of its students, with the official
linear head and the official fall of the rate at epoch 700 (recipes 3.2, 4.5). No fine-tuned number is published.

lvit train --config=configs/pretrain/simmim_swin_small.py --workdir=runs/swin_small
"""

from lvit_jax.configs import swins


def get_config():
    config = swins.swin_simmim("swin_c96")
    config.train.epochs = 800.0
    return config
