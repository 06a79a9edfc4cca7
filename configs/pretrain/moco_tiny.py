"""MoCo-v3, ViT-Tiny (12 heads), 400 epochs on ImageNet as MAE-Lite runs it (mocov3_exp.py).

After fine-tuning: 76.8 top-1 (MAE-Lite MOCOV3.md).

lvit train --config=configs/pretrain/moco_tiny.py --workdir=runs/moco
"""

from lvit_jax.configs import common


def get_config():
    return common.contrastive()
