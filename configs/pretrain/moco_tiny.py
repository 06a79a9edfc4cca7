"""MoCo-v3, ViT-Tiny (12 heads), 400 epochs on ImageNet as MAE-Lite runs it (mocov3_exp.py).

After fine-tuning: 76.8 top-1 (MAE-Lite MOCOV3.md).

With LARS in place of AdamW, MoCo-v3's optimizer for ResNets (its rates are not in the recipes: yours to choose):
--config.optim.name=lars --config.optim.decay_all=False, since LARS decays no vectors; `nesterov` does not apply.

lvit train --config=configs/pretrain/moco_tiny.py --workdir=runs/moco
"""

from lvit_jax.configs import common


def get_config():
    return common.contrastive()
