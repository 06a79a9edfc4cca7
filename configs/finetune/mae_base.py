"""ImageNet fine-tuning of MAE's ViT-Base as MAE itself does it: 100 epochs (recipes 5.1, MAE's main_finetune.py).

Top-1: 83.6 from 1600 epochs of MAE (quoted in TinyMIM, arXiv:2301.01296; recipes 11.2).

lvit import_torch --file=mae_pretrain_vit_base.pth --heads=12 --out=weights/mae_base
lvit train --config=configs/finetune/mae_base.py --workdir=runs/ft_base --config.init.encoder=weights/mae_base
"""

from lvit_jax.configs.finetune import imagenet_mae_style


def get_config():
    config = imagenet_mae_style.get_config()  # its augmentation, smoothing and drop-path are MAE's
    config.model.name = "vit_base"
    config.objective.head_std = 2e-5
    config.optim.update({"blr": 5e-4, "layer_decay": 0.65})
    return config
