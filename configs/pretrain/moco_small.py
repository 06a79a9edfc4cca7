"""MoCo-v3, ViT-Small with 6 heads (recipes 1.1), MAE-Lite's recipe for ViT-Tiny; the patch embedding is frozen.

Nobody has published this run: 81.4 top-1 is a MoCo ViT-Small in TinyMIM's comparison, of its own recipe and heads.

lvit train --config=configs/pretrain/moco_small.py --workdir=runs/moco_small
"""

from lvit_jax.configs import common


def get_config():
    config = common.contrastive()
    config.model.update({"name": "vit_small", "heads": 6})
    config.optim.frozen = ("encoder/patch_embed/.*",)  # the official ViT runs (--stop-grad-conv1); tiny trains it
    return config
