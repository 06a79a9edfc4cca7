"""D-MAE: MAE on ViT-Small plus the last attention logits of an MAE-Base teacher.

After fine-tuning with configs/finetune/vit_small.py: 82.5 top-1 (MAE-Lite SMALL.md).

lvit train --config=configs/pretrain/d_mae_small.py --workdir=runs/d_mae_small --config.init.teacher=weights/mae_base
"""

from lvit_jax.configs import common


def get_config():
    config = common.base()
    config.model.name = "vit_small"
    config.objective = common.distill(decoder="small", pairs=((12, 12),))
    return config
