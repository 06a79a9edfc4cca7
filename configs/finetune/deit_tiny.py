"""Facebook's DeiT-Ti from scratch: 3 heads, CLS, 300 epochs (arXiv:2012.12877), without its repeated augmentation.

Top-1: 72.2 (quoted in TinyMIM, arXiv:2301.01296; recipes 3.7, whose list of settings this is; the lowest rate and the
start of the warm-up are those of DeiT's code). MAE-Lite's stronger baseline is scratch_tiny.py. Positions are learned
from the sin-cos values; DeiT draws them from N(0, 0.02).

The same recipe, as TinyMIM quotes it (recipes 11.2): DeiT-S 79.9, --config.model.name=vit_small --config.model.heads=6;
DeiT-B 81.2, --config.model.name=vit_base --config.model.heads=12.

lvit train --config=configs/finetune/deit_tiny.py --workdir=runs/deit
"""

from lvit_jax.configs.finetune import imagenet_mae_style


def get_config():
    config = imagenet_mae_style.get_config()
    config.model.heads = 3
    config.objective.pool = "cls"
    config.optim.update({"blr": 2.5e-4, "layer_decay": 1.0, "warmup_lr": 1e-6, "min_lr": 1e-5})  # 5e-4 per 512 images
    config.train.epochs = 300.0
    return config
