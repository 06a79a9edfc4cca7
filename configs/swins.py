"""The fields of configs on Swins (recipes 1.5, 4.5), beside those of `common`."""

from lvit_jax.configs import common
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def simmim_d2(decode_stage: int, teacher_layer: int) -> ConfigDict:
    """objectives.simmim_d2.make_simmim_d2."""
    return ConfigDict(
        {
            "name": "simmim_d2",
            "head": "block",
            "mask_ratio": 0.6,
            "mask_unit": 32,
            "norm_pix": False,
            "decode_stage": decode_stage,
            "teacher_layer": teacher_layer,
            "alpha": 1.0,
        }
    )


def swin(config: ConfigDict, name: str) -> ConfigDict:
    """The config with a Swin in place of its ViT: the `model` section of models.swin.swin."""
    config.model = ConfigDict(
        {
            "name": name,
            "image_size": 224,
            "patch_size": 4,
            "channels": 3,
            "window": placeholder(int),  # None: the size's own, as width, depths and heads (one per stage)
            "width": placeholder(int),
            "depths": placeholder(tuple),
            "heads": placeholder(tuple),
            "norm_eps": 1e-5,
            "drop_path": 0.0,
            "remat": False,
            "dtype": "bfloat16",
        }
    )
    return config


def swin_simmim(name: str) -> ConfigDict:
    """SimMIM on a Swin as MAE-Lite pre-trains it (recipes 4.5; projects/simmim/simmim_exp.py)."""
    config = swin(common.base(), name)
    config.objective = common.simmim()
    config.model.drop_path = 0.1  # the default of its Swin class
    config.data.update({"crop_scale": (0.67, 1.0), "interpolation": "bilinear"})  # as the official data_simmim.py
    config.optim.update({"blr": 5e-5, "warmup_epochs": 10.0, "warmup_lr": 2e-6})  # 4e-4 at batch 2048
    config.optim.update({"b2": 0.99, "clip": 5.0, "milestones": (700.0,)})
    config.optim.no_decay = ("encoder/mask_token",)  # bias tables are decayed: the official rule misses their names
    config.train.update({"epochs": 400.0, "batch_size": 2048})
    return config
