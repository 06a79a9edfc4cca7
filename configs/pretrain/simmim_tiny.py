"""SimMIM on ViT-Tiny (12 heads), 400 epochs on ImageNet: the official recipe of ViT-B (recipes 3.2, 12.4).

No published number: which settings the papers' tables used for SimMIM on ViT-Tiny could not be verified (NV). The
encoder is our plain ViT, with sin-cos positions; the official ViT-B has a shared relative-position bias and LayerScale.

lvit train --config=configs/pretrain/simmim_tiny.py --workdir=runs/simmim
"""

from lvit_jax.configs import common


def get_config():
    config = common.base()
    config.objective = common.simmim()
    config.model.drop_path = 0.1
    config.data.crop_scale = (0.67, 1.0)
    config.data.interpolation = "bilinear"  # torchvision's default, as the official data_simmim.py
    config.optim.update({"blr": 5e-5, "warmup_epochs": 10.0, "warmup_lr": 2e-6})  # 1e-4 and 5e-7 per 512 images
    config.optim.update({"b2": 0.999, "clip": 5.0, "milestones": (700.0,)})  # the official fall, of 800 epochs
    config.optim.no_decay = ("encoder/cls_token",)
    config.train.update({"epochs": 400.0, "batch_size": 2048})
    return config
