"""The fields of linear probes."""

from lvit_jax.configs import common
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def probe() -> ConfigDict:
    """Linear probes on ImageNet as MAE probes its last layer (recipes 7; main_linprobe.py), here of all layers."""
    config = common.base()
    config.objective = {  # objectives.probe.make_probe
        "name": "probe",
        "classes": placeholder(int),  # None: as many as the data has
        "layers": (),  # such as (6, 12); (): all
        "pools": (),  # ("mean",), ("cls",); (): all there are
        "head_std": 0.01,
    }
    config.data.update({"recipe": "mae", "interpolation": "bicubic"})  # crop and flip, nothing else
    config.optim.update({"name": "lars", "blr": 0.1, "warmup_epochs": 10.0, "weight_decay": 0.0, "momentum": 0.9})
    config.train.update({"epochs": 90.0, "batch_size": 16384})
    return config
