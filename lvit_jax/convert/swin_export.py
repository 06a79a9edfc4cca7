"""A trained Swin written for PyTorch: a file in the official layout, or a folder of timm or transformers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lvit_jax.convert import files
from lvit_jax.convert.folders import hf_labels, hf_preprocessor, timm_folder
from lvit_jax.convert.swin import NORM_EPS, SwinArch, side_of, to_torch
from lvit_jax.errors import InputError


def arch_of(record: Mapping[str, Any], params: Mapping[str, Any], decoder: bool) -> SwinArch:
    """What a run or an import holds.

    Args:
      record: of `training.record.read_record`.
      params: the tree of its parameters.
      decoder: with the head of SimMIM.

    Raises:
      InputError: another ε or pooling than PyTorch's Swins have; a head was asked for and SimMIM trained none.
    """
    from lvit_jax.models.swin import swin  # jax: seconds, which a wrong workdir need not cost

    model, objective = record["config"]["model"], record["config"]["objective"] or {}
    encoder = swin(**{key: value for key, value in model.items() if key != "image_size"})
    classifies, size = "head" in params, model["image_size"]
    if encoder.norm_eps != NORM_EPS:
        raise InputError(f"norm_eps={encoder.norm_eps}: the Swins of PyTorch have {NORM_EPS}, in every format")
    if classifies and objective.get("pool", "mean") != "norm_mean":
        pool = objective.get("pool", "mean")
        raise InputError(f"pool={pool!r}: the Swins of PyTorch norm tokens before their mean (pool='norm_mean')")
    if decoder and not ("decoder" in params and objective.get("name") == "simmim"):
        raise InputError(f"there is no decoder in this {objective.get('name', 'backbone')} that a SimMIM file can hold")
    return SwinArch(
        **{key: getattr(encoder, key) for key in ("width", "depths", "heads", "window", "patch_size", "channels")},
        image_size=(size, size) if isinstance(size, int) else tuple(size),
        final_norm="norm" in params["encoder"] and not classifies,
        mask_token="mask_token" in params["encoder"],
        classes=params["head"]["fc"]["bias"].shape[0] if classifies else None,
        decoder=_decoder(params["decoder"]) if decoder else None,
    )


def _decoder(params: Mapping[str, Any]) -> str | dict[str, int]:
    if "embed" not in params:
        return "linear"
    rows, heads = params["block_0"]["attn"]["bias_table"].shape
    return {"width": params["embed"]["bias"].shape[0], "heads": heads, "window": side_of(rows)}


def write(
    folder: Path,
    to: str,
    params: Mapping[str, Any],
    arch: SwinArch,
    data: Mapping[str, Any],
    _: Mapping[str, Any],
    notes: Mapping[str, Any],
) -> bool:
    """As `export.write`, for a Swin.

    Raises:
      InputError: an encoder or an image size that the format's class cannot express.
    """
    if to == "mae":
        layout = "simmim" if arch.mask_token else "swin"
        weights = to_torch(params, arch, layout) | buffers(arch, "encoder." if arch.mask_token else "")
        return files.write_file(folder / "swin", weights, notes)
    if not (arch.classes or arch.final_norm):
        raise InputError(f"--to={to}: its Swins end in a norm, which this encoder has none of: --to=mae is the way")
    config = (timm_config if to == "timm" else hf_config)(arch, data, notes.get("licence"))
    # Without classifier timm 1.0.20 takes all names for the official ones; later versions look, and read them as well.
    layout = "swin" if to == "timm" and not arch.classes else to
    weights = to_torch(params, arch._replace(mask_token=False), layout)
    if to == "hf":
        if not arch.classes:  # SwinModel's own names
            weights = {name.removeprefix("swin."): array for name, array in weights.items()}
        files.write_json(folder / "preprocessor_config.json", hf_preprocessor(arch, data["mean"], data["std"]))
    files.write_safetensors(folder / "model.safetensors", weights)
    files.write_json(folder / "config.json", config | {"lvit_jax": dict(notes)})
    return False


def buffers(arch: SwinArch, prefix: str = "") -> dict[str, np.ndarray]:
    """What official files hold beside the parameters: the index of each bias table, the mask of each shifted block."""
    from lvit_jax.models.swin import effective_window, relative_index, shift_mask

    made = {}
    for stage, depth in enumerate(arch.depths):
        grid = arch.grid[0] // 2**stage, arch.grid[1] // 2**stage
        for j in range(depth):
            block = f"{prefix}layers.{stage}.blocks.{j}"
            window, shift = effective_window(arch.window, j % 2 * (arch.window // 2), grid)
            made[f"{block}.attn.relative_position_index"] = relative_index(window)
            if shift:
                made[f"{block}.attn_mask"] = shift_mask(grid, window, shift)
    if isinstance(arch.decoder, Mapping):
        made["decoder.1.attn.relative_position_index"] = relative_index(arch.decoder["window"])
    return made


def timm_config(arch: SwinArch, data: Mapping[str, Any], licence: str | None) -> dict[str, Any]:
    """config.json of a timm folder.

    Raises:
      InputError: images that are not square where a stage is no larger than the window: timm then cuts rectangles.
    """
    high, wide = arch.image_size
    if high != wide and min(arch.grid) // arch.scale <= arch.window:
        raise InputError(
            f"image_size={high}x{wide}: in its last stage, timm's windows are no squares of {arch.window}: "
            "--to=mae is the way"
        )
    sizes = {"depths": list(arch.depths), "num_heads": list(arch.heads), "window_size": arch.window}
    name, features = "swin_tiny_patch4_window7_224", arch.width * arch.scale
    config = timm_folder(name, arch, {**sizes, "global_pool": "avg"}, data, licence, "head.fc", features)
    config["pretrained_cfg"]["pool_size"] = [side // arch.scale for side in arch.grid]
    return config


def hf_config(arch: SwinArch, data: Mapping[str, Any], _: str | None) -> dict[str, Any]:
    """config.json of SwinForImageClassification or SwinModel.

    Raises:
      InputError: a last stage smaller than the window: transformers has bias tables of whole windows only.
    """
    last = min(arch.grid) // arch.scale
    if last < arch.window:
        raise InputError(
            f"window={arch.window}: transformers' Swin has no bias table for a last stage of {last} tokens a side: "
            "--to=timm or --to=mae is the way"
        )
    side = arch.image_size[0] if arch.image_size[0] == arch.image_size[1] else list(arch.image_size)
    config = {
        "model_type": "swin",
        "architectures": ["SwinForImageClassification" if arch.classes else "SwinModel"],
        "image_size": side,
        "patch_size": arch.patch_size,
        "num_channels": arch.channels,
        "embed_dim": arch.width,
        "depths": list(arch.depths),
        "num_heads": list(arch.heads),
        "window_size": arch.window,
        "mlp_ratio": 4.0,
        "qkv_bias": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
        "hidden_act": "gelu",
        "use_absolute_embeddings": False,
        "layer_norm_eps": NORM_EPS,
        "encoder_stride": arch.patch_size * arch.scale,
    }
    return config | (hf_labels(arch.classes, data) if arch.classes else {})
