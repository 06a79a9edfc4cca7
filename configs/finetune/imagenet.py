"""ImageNet fine-tuning, MAE-Lite's improved recipe: 300 epochs, batch 1024 (finetuning_exp.py).

Top-1 of ViT-Tiny: 78.0 from MAE, 78.4 from D-MAE, 78.7 from D²-MAE, 75.8 from scratch (MAE-Lite README.md, DISTILL.md).

lvit train --config=configs/finetune/imagenet.py --workdir=runs/ft --config.init.encoder=runs/d2
"""

from lvit_jax.configs import labelled


def get_config():
    return labelled.finetune()
