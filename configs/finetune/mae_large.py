"""ImageNet fine-tuning of MAE's ViT-Large as MAE itself does it: 50 epochs (recipes 5.1, MAE's main_finetune.py).

Top-1: 85.9 from MAE, 82.6 from scratch in a recipe of its own (quoted in TinyMIM, arXiv:2301.01296; recipes 11.2).

lvit import_torch --file=mae_pretrain_vit_large.pth --heads=16 --out=weights/mae_large
lvit train --config=configs/finetune/mae_large.py --workdir=runs/ft_large --config.init.encoder=weights/mae_large
"""

from lvit_jax.configs.finetune import mae_base


def get_config():
    config = mae_base.get_config()
    config.model.update({"name": "vit_large", "drop_path": 0.2})
    config.optim.update({"blr": 1e-3, "layer_decay": 0.75})
    config.train.epochs = 50.0
    return config
