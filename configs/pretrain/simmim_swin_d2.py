"""D² on Swin C=48: pixels from stage 2, the attention of a 13th block; teacher: SimMIM on Swin C=96.

After fine-tuning: 77.8 top-1 (MAE-Lite SIMMIM.md).

lvit train --config=configs/pretrain/simmim_swin_d2.py --workdir=runs/simmim_d2 --config.init.teacher=runs/swin_small
"""

from lvit_jax.configs import swins


def get_config():
    config = swins.swin_simmim("swin_c48")
    config.objective = swins.simmim_d2(decode_stage=2, teacher_layer=12)
    return config
