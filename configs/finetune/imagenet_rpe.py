"""Long ImageNet fine-tuning with relative positions: 1000 epochs, the improved recipe else (finetuning_rpe_exp.py).

Top-1 of ViT-Tiny from MAE: 79.0 (79.002), with `qv_bias` on (MAE-Lite README.md; recipes 5.1). The plain encoder's qkv
bias is dropped. The row from D²-MAE has another convention of biases: imagenet_rpe_d2.py.

lvit train --config=configs/finetune/imagenet_rpe.py --workdir=runs/ft_rpe --config.init.encoder=runs/mae
"""

from lvit_jax.configs import labelled


def get_config():
    config = labelled.relative(labelled.finetune(), "vit_tiny_rpe", qv_bias=True)
    config.train.epochs = 1000.0
    return config
