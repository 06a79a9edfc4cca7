"""D-MAE: MAE on ViT-Tiny plus the last attention logits of an MAE-Base teacher.

After fine-tuning: 78.4 top-1 (MAE-Lite DISTILL.md).

lvit train --config=configs/pretrain/d_mae_tiny.py --workdir=runs/d_mae --config.init.teacher=weights/mae_base
"""

from lvit_jax.configs import common


def get_config():
    config = common.base()
    config.objective = common.distill(decoder="tiny", pairs=((12, 12),))
    return config
