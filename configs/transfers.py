"""What the configs in transfer/ share."""

from lvit_jax.configs import common
from ml_collections import ConfigDict


def transfer(source: str, train_split: str = "train", val_split: str = "test") -> ConfigDict:
    """Transfer classification as MAE-Lite (recipes 6; finetuning_transfer_exp.py): fine-tuning with SGD.

    The values are the defaults of its class. Of the epochs only CIFAR-100's are published; the others take them over.
    """
    config = common.finetune()
    config.objective.mixup = 0.0
    config.data.update({"source": source, "train_split": train_split, "val_split": val_split, "randaugment": None})
    config.optim.update(
        {
            "name": "sgd",
            "blr": 0.015,  # 0.03 per 512 images
            "warmup_epochs": 20.0,
            "weight_decay": 0.0,
            "layer_decay": 0.75,
            "clip": 1.0,
            "no_decay": (),
        }
    )
    config.train.update({"epochs": 50.0, "batch_size": 512})
    # A supervised start brings the norm behind its pooling along; only the last Linear is new.
    config.init.dropped = tuple(rule.replace("head/.*", "head/fc/.*") for rule in config.init.dropped)
    return config
