"""Long ImageNet fine-tuning with relative positions from D²-MAE: as imagenet_rpe.py, with an ordinary qkv bias.

Top-1 of ViT-Tiny from D²-MAE: 79.4 (79.444), with `qv_bias` off (MAE-Lite README.md, arXiv:2404.12210; recipes 5.1).

lvit train --config=configs/finetune/imagenet_rpe_d2.py --workdir=runs/ft_rpe --config.init.encoder=runs/d2
"""

from lvit_jax.configs import labelled


def get_config():
    config = labelled.relative(labelled.finetune(), "vit_tiny_rpe", qv_bias=False)
    config.train.epochs = 1000.0
    return config
