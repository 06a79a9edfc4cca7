"""The fields that every config has. A section is the keyword arguments of one function, named beside it."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def base() -> ConfigDict:
    """Pre-training on ImageNet as MAE-Lite does it (recipes 2.2); the objective is the config's own."""
    return ConfigDict(
        {
            "seed": 0,
            "objective": {},
            "model": {  # models.vit.vit; image_size also sizes the data
                "name": "vit_tiny",
                "image_size": 224,
                "patch_size": 16,
                "channels": 3,
                "heads": placeholder(int),  # None: the size's own. DeiT's are 3 for tiny, 6 for small
                "width": placeholder(int),
                "depth": placeholder(int),
                "positions": "sincos",
                "norm_eps": 1e-6,
                "drop_path": 0.0,
                "remat": False,
                "dtype": "bfloat16",
            },
            "data": {  # data.sources.open_data, where the fields are explained
                "source": "imagenet2012",
                "data_dir": placeholder(str),
                "train_split": "train",
                "val_split": "validation",
                "holdout": 0.1,
                "split_seed": 0,
                "limit": placeholder(int),
                "limit_seed": 0,
                "statistics": "imagenet",
                "recipe": "mae",
                "crop_scale": (0.08, 1.0),  # MAE-Lite, mae_lite_exp.py; MAE itself crops at (0.2, 1)
                "crop_ratio": (3 / 4, 4 / 3),
                "interpolation": "random",
                "flip": 0.5,
                "pad": 0,
                "eval_crop": 0.875,
                "resample": "exact",
                "max_broken": 0.1,
                "threads": placeholder(int),
            },
            "optim": {  # training.optim.make_tx
                "name": "adamw",
                "blr": 1.5e-4,  # per 256 images; MAE-Lite, mae_lite_exp.py
                "warmup_epochs": 40.0,
                "warmup_lr": 0.0,
                "min_lr": 0.0,
                "milestones": (),  # epochs at which the rate falls to a tenth, in place of the cosine
                "weight_decay": 0.05,
                "b1": 0.9,
                "b2": 0.95,
                "eps": 1e-8,
                "momentum": 0.9,  # of SGD and LARS
                "nesterov": True,
                "layer_decay": 1.0,
                "clip": placeholder(float),
                "decay_all": False,  # True: biases and norms decay too
                "no_decay": (),  # CLS and mask tokens *are* decayed in pre-training, as in the reference
                "frozen": (),
                "ema": placeholder(float),
            },
            "train": {"epochs": 400.0, "steps": placeholder(int), "batch_size": 4096, "accumulate": 1},
            "init": {  # build.weights.load_weights
                "encoder": placeholder(str),  # the workdir of a run or of an import
                "teacher": placeholder(str),
                "demo_teacher": placeholder(str),  # a config that trains it (or a frozen encoder) where none is given
                "heads_from": placeholder(int),
                "fresh": (),
                "dropped": (),
            },
            "mesh": {  # training.mesh.make_mesh; rules as (("encoder/.*/kernel", (None, "fsdp")),), else by shape
                "devices": placeholder(int),
                "fsdp": 1,
                "rules": (),
            },
            "checkpoint": {"every_steps": 1000, "keep": 2},
            "log": {"every_steps": 50, "tensorboard": True, "profile": placeholder(tuple)},
            # knn_images: in pre-training, k-NN accuracy by at most so many labelled images, of as many; 0: none
            "eval": {"every_epochs": 10.0, "batch_size": 512, "knn_images": 10_000},
        }
    ).lock()


def hiera(name: str, q_pool: int) -> ConfigDict:
    """models.hiera.hiera: a config's `model` section; image_size also sizes the data."""
    return ConfigDict(
        {
            "name": name,
            "image_size": 224,
            "channels": 3,
            "first_width": placeholder(int),  # None: the size's own
            "depths": placeholder(tuple),
            "first_heads": placeholder(int),
            "patch_kernel": 7,
            "patch_stride": 4,
            "patch_padding": 3,
            "mask_unit": 8,
            "q_pool": q_pool,  # 2 in pre-training, 3 in classification (recipes 1.4)
            "norm_eps": 1e-6,
            "drop_path": 0.0,
            "remat": False,
            "dtype": "bfloat16",
        }
    )


def mae(decoder: str) -> ConfigDict:
    """objectives.mae.make_mae."""
    return ConfigDict({"name": "mae", "decoder": decoder, "mask_ratio": 0.75, "norm_pix": True})


def distill(decoder: str, pairs: tuple[tuple[int, int], ...]) -> ConfigDict:
    """objectives.distill.make_distill."""
    return ConfigDict(
        {
            "name": "distill",
            "decoder": decoder,
            "mask_ratio": 0.75,
            "norm_pix": True,
            "pairs": pairs,  # MAE-Lite, mae_lite_distill_exp.py: the last layer of each
            "target": "logits",  # what the released code matches; the paper's words suggest probabilities
            "alpha": 1.0,
            "adapter": True,
        }
    )


def d2(decoder: str, decode_from: int, teacher_layer: int) -> ConfigDict:
    """objectives.distill.make_d2."""
    return ConfigDict(
        {
            "name": "d2",
            "decoder": decoder,
            "mask_ratio": 0.75,
            "norm_pix": True,
            "decode_from": decode_from,
            "teacher_layer": teacher_layer,
            "target": "logits",
            "alpha": 1.0,
        }
    )


def tinymim() -> ConfigDict:
    """TinyMIM on ImageNet (recipes 4.6; TinyMIM main_pretrain.py): relations of a teacher's block, two views."""
    config = base()
    config.objective = {  # objectives.tinymim.make_tinymim
        "name": "tinymim",
        "target": "relations",
        "views": ("qk", "vv"),
        "softmax": True,
        "teacher_layer": 18,  # of MAE-Large's 24
        "teacher_drop_path": 0.0,
        "mask_ratio": 0.0,
    }
    with config.model.unlocked():  # fields that only this recipe has
        config.model.last_heads = placeholder(int)
        config.model.last_heads = 16  # MAE-Large's; None: as the other blocks
        config.model.drop_path_shape = "constant"
    config.model.drop_path = 0.1
    config.data.update({"recipe": "tinymim", "crop_scale": (0.2, 1.0), "interpolation": "bicubic"})
    with config.data.unlocked():
        config.data.jitter = (0.4, 0.4, 0.4)  # in the code; the paper's text has only crop and flip
    config.optim.update({"warmup_epochs": 15.0, "frozen": qkv_only(12)})
    config.train.epochs = 300.0
    return config


def qkv_only(depth: int) -> tuple[str, str]:
    """Rules for `optim.frozen` where of the last block only norm1 and attn/qkv are used, and no final norm."""
    return f"encoder/block_{depth - 1}/(attn/proj|norm2|mlp)/.*", "encoder/norm/.*"


def moco() -> ConfigDict:
    """objectives.moco.make_moco; the sizes of MoCo-v3 and MAE-Lite (mocov3_exp.py)."""
    return ConfigDict({"name": "moco", "hidden": 4096, "dim": 256, "temperature": 0.2, "momentum": 0.99})


def contrastive() -> ConfigDict:
    """MoCo-v3 pre-training on ImageNet as MAE-Lite does it (recipes 3.1; mocov3_exp.py)."""
    config = base()
    config.objective = moco()
    config.model.positions = "sincos_moco"
    config.data.update({"recipe": "moco", "interpolation": "bilinear"})  # torchvision's default
    with config.data.unlocked():  # data.moco.moco; pairs are for view 1 and view 2
        config.data.jitter = (0.4, 0.4, 0.2, 0.1)  # brightness, contrast, saturation, hue
        config.data.jitter_p = 0.8
        config.data.blur_p = (1.0, 0.1)
        config.data.blur_sigma = (0.1, 2.0)
        config.data.grey_p = 0.2
        config.data.solarise_p = (0.0, 0.2)
        config.data.order = "mae_lite"
    config.optim.update(
        {
            "blr": 1.5e-4,
            "warmup_epochs": 40.0,
            "warmup_lr": 1e-6,
            "weight_decay": 0.1,
            "b2": 0.999,
            "decay_all": True,  # no parameter groups: biases and norms decay too
        }
    )
    config.train.update({"epochs": 400.0, "batch_size": 1024})
    return config


def simmim() -> ConfigDict:
    """objectives.simmim.make_simmim."""
    return ConfigDict({"name": "simmim", "head": "linear", "mask_ratio": 0.6, "mask_unit": 32, "norm_pix": False})


def finetune() -> ConfigDict:
    """ImageNet fine-tuning, MAE-Lite's improved recipe (recipes 5.1; finetuning_exp.py)."""
    config = base()
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


def digits(config: ConfigDict) -> ConfigDict:
    """A config in miniature, on the bundled 8x8 digits: 16 patches, a model of width 64, minutes on two cores."""
    config.model.update({"name": "vit_micro", "image_size": 8, "patch_size": 2, "channels": 1, "dtype": "float32"})
    config.data.update({"source": "digits", "statistics": "digits", "flip": 0.0, "pad": 1, "eval_crop": 1.0})
    config.train.batch_size = 128
    config.optim.warmup_epochs = 5.0
    config.checkpoint.every_steps = 500
    config.log.update({"every_steps": 50, "tensorboard": False})
    config.eval.update({"every_epochs": 50.0, "batch_size": 128})
    return config
