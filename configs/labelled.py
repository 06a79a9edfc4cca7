"""The fields of configs that read labels: fine-tuning, transfer, linear probes; beside those of `common`."""

from lvit_jax.configs import common
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def finetune() -> ConfigDict:
    """ImageNet fine-tuning, MAE-Lite's improved recipe (recipes 5.1; finetuning_exp.py)."""
    config = common.base()
    config.objective = {  # objectives.classify.make_classify
        "name": "classify",
        "classes": placeholder(int),  # None: as many as the data has
        "pool": "mean",
        "head_std": 0.02,
        "mixup": 0.2,
        "cutmix": 0.0,
        "smoothing": 0.0,
        "group": 128,  # images that share one λ: MAE-Lite's batch per GPU
    }
    config.model.positions = "learned"  # trained from the sin-cos values
    config.data.update({"recipe": "finetune", "interpolation": "bicubic"})
    with config.data.unlocked():  # fields that only this recipe has
        config.data.randaugment = placeholder(str)
        config.data.randaugment = "rand-m10-mstd0.5-inc1"
        config.data.erase = 0.0
    config.optim.update(
        {
            "blr": 1e-3,
            "warmup_epochs": 5.0,
            "min_lr": 1e-6,
            "b2": 0.999,
            "layer_decay": 0.85,
            "no_decay": ("encoder/pos_embed", "encoder/cls_token"),
        }
    )
    config.train.update({"epochs": 300.0, "batch_size": 1024})
    config.init.fresh = ("head/.*", "encoder/pos_embed")
    # What pre-training leaves behind: decoder, adapters, the heads of a contrastive method, the final norm (fine-tuning
    # has its own), the mask token, another head.
    config.init.dropped = ("decoder/.*", "adapters/.*", "projector/.*", "predictor/.*", "head/.*", "encoder/norm/.*")
    config.init.dropped += ("encoder/mask_token",)
    return config


def transfer(source: str, train_split: str = "train", val_split: str = "test") -> ConfigDict:
    """Transfer classification as MAE-Lite (recipes 6; finetuning_transfer_exp.py): fine-tuning with SGD.

    The values are the defaults of its class. Of the epochs only CIFAR-100's are published; the others take them over.
    """
    config = finetune()
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


def relative(config: ConfigDict, name: str, qv_bias: bool) -> ConfigDict:
    """Fine-tuning with relative positions (recipes 1.2; finetuning_rpe_exp.py): the fields of models.vit_rpe.vit_rpe.

    With `qv_bias` a plain encoder's qkv bias has no place and is dropped: the key's part has no effect on attention,
    those of queries and values start at zero.
    """
    config.model.name = name
    with config.model.unlocked():
        config.model.qv_bias = qv_bias
        config.model.layer_scale = placeholder(float)
        config.model.shared_table = False
    config.objective.head_std = 2e-5  # 0.02, then times 0.001
    config.init.fresh += (r"encoder/.*relative_position_bias_table", r"encoder/.*/(q_bias|v_bias|gamma_[12])")
    if qv_bias:
        config.init.dropped += (r"encoder/block_\d+/attn/qkv/bias",)
    return config


def classify_distill(config: ConfigDict) -> ConfigDict:
    """Fine-tuning with a teacher's answers (recipes 5.4): objectives.classify_distill.make_classify_distill."""
    plain = config.objective
    config.objective = ConfigDict(
        {
            "name": "classify_distill",
            "target": "hard",
            "alpha": 0.5,
            "temperature": 1.0,  # of target "soft"
            "token": "cls",  # which plays the distillation token; or a token of its "own"
            "expand": placeholder(int),  # width of a layer before the heads
            **{key: plain[key] for key in ("pool", "head_std", "mixup", "cutmix", "smoothing", "group")},
        }
    )
    config.objective.classes = placeholder(int)
    config.init.fresh += ("dist_head/.*", "neck/.*", "encoder/dist_token")
    config.init.dropped += ("dist_head/.*", "neck/.*", "encoder/dist_token")
    return config
