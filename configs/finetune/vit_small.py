"""ImageNet fine-tuning of ViT-Small (12 heads): the improved recipe with layer decay 0.75 (MAE-Lite SMALL.md).

Top-1: 80.2 from scratch (`init.encoder` empty), 82.1 from MAE, 82.5 from D-MAE (SMALL.md; recipes 5.1, 11.1).

lvit train --config=configs/finetune/vit_small.py --workdir=runs/ft_small --config.init.encoder=runs/mae_small
"""

from lvit_jax.configs import labelled


def get_config():
    config = labelled.finetune()
    config.model.name = "vit_small"
    config.optim.layer_decay = 0.75
    return config
