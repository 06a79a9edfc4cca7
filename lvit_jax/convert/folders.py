"""What the config.json of exported folders says, for timm and for transformers."""

from collections.abc import Mapping, Sequence
from typing import Any

from lvit_jax.convert.arch import Arch
from lvit_jax.errors import InputError

_TIMM_SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge"}


def timm_config(arch: Arch, data: Mapping[str, Any], licence: str | None) -> dict[str, Any]:
    """config.json of a timm folder; `model_args` states every size, the architecture's name is only where it starts.

    Args:
      arch: what is exported.
      data: classes, mean, std, crop.
      licence: for pretrained_cfg.
    """
    pool = "avg" if arch.pool == "mean" else "token"
    args = {"depth": arch.depth, "num_heads": arch.heads, "class_token": True, "fc_norm": arch.pool == "mean"}
    name = f"vit_{_TIMM_SIZES.get(arch.width, 'base')}_patch{14 if arch.width == 1280 else 16}_224"
    return timm_folder(name, arch, {**args, "global_pool": pool}, data, licence)


def timm_folder(
    name: str,
    arch: Any,
    args: Mapping[str, Any],
    data: Mapping[str, Any],
    licence: str | None,
    classifier: str = "head",
    features: int | None = None,
) -> dict[str, Any]:
    """config.json of a timm folder of any kind of model.

    Args:
      name: the architecture that timm starts from; `model_args` state every size.
      arch: the sizes that all kinds have: width, patch_size, channels, image_size, classes.
      args: the arguments of the model's class beside those: global_pool and what is the kind's own.
      data, licence: as `timm_config`.
      classifier: timm's name of the last Linear.
      features: the width that it reads; default: the model's.
    """
    side, classes = list(arch.image_size), arch.classes or 0
    sizes = {"img_size": side, "patch_size": arch.patch_size, "in_chans": arch.channels, "embed_dim": arch.width}
    config = {
        "architecture": name,
        "num_classes": classes,
        "num_features": features or arch.width,
        "global_pool": args["global_pool"],
        "model_args": {**sizes, "mlp_ratio": 4.0, "qkv_bias": True, **args},
        "pretrained_cfg": {
            "num_classes": classes,
            "input_size": [arch.channels, *side],
            "fixed_input_size": True,
            "crop_pct": data["crop"],
            "crop_mode": "center",
            "interpolation": "bicubic",
            "mean": list(data["mean"]),
            "std": list(data["std"]),
            "first_conv": "patch_embed.proj",
            "classifier": classifier,
            "pool_size": None,
            "license": licence,
        },
    }
    return config | ({"label_names": list(data["classes"])} if classes and data.get("classes") else {})


def hf_config(arch: Arch, data: Mapping[str, Any], objective: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of ViTMAEForPreTraining, or of ViTForImageClassification for a classifier on CLS.

    Raises:
      InputError: what those two cannot be: mean pooling, no head and no decoder, images that are not square in a MAE.
    """
    if arch.pool == "mean":
        raise InputError("transformers' ViT pools by CLS, this classifier by the mean: --to=timm is the way")
    if not arch.pool and not arch.decoder:
        raise InputError("--to=hf wants a classifier or a decoder, and this has neither: --to=timm is the way")
    side = arch.image_size[0] if arch.image_size[0] == arch.image_size[1] else list(arch.image_size)
    if arch.decoder and not isinstance(side, int):
        raise InputError(f"transformers' ViTMAE takes square images, not {side[0]}x{side[1]}: --to=mae is the way")
    config = {
        "hidden_size": arch.width,
        "num_hidden_layers": arch.depth,
        "num_attention_heads": arch.heads,
        "intermediate_size": 4 * arch.width,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": arch.norm_eps,
        "image_size": side,
        "patch_size": arch.patch_size,
        "num_channels": arch.channels,
        "qkv_bias": True,
    }
    if arch.decoder:
        return _hf_masked(arch, objective) | config
    kind = {"architectures": ["ViTForImageClassification"], "model_type": "vit"}
    return kind | config | hf_labels(arch.classes, data)


def hf_labels(classes: int, data: Mapping[str, Any]) -> dict[str, Any]:
    """id2label and label2id: the names of the data, or transformers' own where it has none."""
    names = data.get("classes") or [f"LABEL_{i}" for i in range(classes)]
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


def _hf_masked(arch: Arch, objective: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        "decoder_hidden_size": arch.decoder["width"],
        "decoder_num_hidden_layers": arch.decoder["depth"],
        "decoder_num_attention_heads": arch.decoder["heads"],
        "decoder_intermediate_size": 4 * arch.decoder["width"],
        "mask_ratio": objective.get("mask_ratio", 0.75),
        "norm_pix_loss": objective.get("norm_pix", True),
    }


def hf_preprocessor(arch: Any, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """preprocessor_config.json for transformers' AutoImageProcessor: resize and normalise."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": arch.image_size[0], "width": arch.image_size[1]},
        "resample": 3,  # bicubic
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }
