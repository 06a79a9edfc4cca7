"""D²-MAE: reconstruction from layer 8, distillation at a 13th block; teacher MAE-Base.

After fine-tuning: 78.7 top-1 (MAE-Lite README.md).

lvit train --config=configs/pretrain/d2_tiny.py --workdir=runs/d2 --config.init.teacher=weights/mae_base
"""

from lvit_jax.configs import common


def get_config():
    config = common.base()
    config.objective = common.d2(decoder="tiny", decode_from=8, teacher_layer=12)
    return config
