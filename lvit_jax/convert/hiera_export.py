"""A trained Hiera written for PyTorch: a file of facebookresearch/hiera, or a folder of transformers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lvit_jax.convert import files
from lvit_jax.convert.folders import hf_labels, hf_preprocessor
from lvit_jax.convert.hiera import HieraArch, to_torch
from lvit_jax.errors import InputError
from lvit_jax.models import DECODERS


def arch_of(record: Mapping[str, Any], params: Mapping[str, Any], decoder: bool) -> HieraArch:
    """What a run or an import holds.

    Args:
      record: of `training.record.read_record`.
      params: the tree of its parameters.
      decoder: with the decoder of a masked autoencoder.

    Raises:
      InputError: neither a decoder nor a classifier, which PyTorch's Hieras always have.
    """
    from lvit_jax.models.hiera import hiera  # jax: seconds, which a wrong workdir need not cost

    model, objective = record["config"]["model"], record["config"]["objective"] or {}
    if not decoder and "head" not in params:
        raise InputError("a Hiera is exported with its decoder (--to=hf or --to=mae) or with a classifier")
    encoder = hiera(**{key: value for key, value in model.items() if key != "image_size"})
    keys = set(HieraArch._fields) - {"image_size", "decoder", "classes"}
    size, stated = model["image_size"], objective.get("decoder")
    return HieraArch(
        **{key: getattr(encoder, key) for key in keys},
        image_size=(size, size) if isinstance(size, int) else tuple(size),
        decoder=(dict(DECODERS[stated]) if isinstance(stated, str) else dict(stated)) if decoder else None,
        classes=params["head"]["fc"]["bias"].shape[0] if "head" in params else None,
    )


def write(
    folder: Path,
    to: str,
    params: Mapping[str, Any],
    arch: HieraArch,
    data: Mapping[str, Any],
    objective: Mapping[str, Any],
    notes: Mapping[str, Any],
) -> bool:
    """As `export.write`, for a Hiera.

    Raises:
      InputError: timm's format, or mask units that the references do not have.
    """
    if to == "timm":
        raise InputError("a Hiera is exported --to=hf or --to=mae, not --to=timm")
    unit = 2 ** (len(arch.depths) - 1)
    if arch.mask_unit != unit:
        raise InputError(f"PyTorch's Hieras have mask units of {unit}x{unit} tokens, this one of {arch.mask_unit}")
    if to == "mae":
        return files.write_file(folder / "hiera", to_torch(params, arch, "hiera"), notes, key="model_state")
    files.write_safetensors(folder / "model.safetensors", to_torch(params, arch, "hf"))
    files.write_json(folder / "preprocessor_config.json", hf_preprocessor(arch, data["mean"], data["std"]))
    files.write_json(folder / "config.json", hf_config(arch, data, objective) | {"lvit_jax": dict(notes)})
    return False


def hf_config(arch: HieraArch, data: Mapping[str, Any], objective: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of HieraForPreTraining or HieraForImageClassification."""
    from lvit_jax.models.hiera import LOCAL_STAGES

    stages = len(arch.depths)
    config = {
        "model_type": "hiera",
        "embed_dim": arch.first_width,
        "image_size": list(arch.image_size),
        "patch_size": [arch.patch_kernel] * 2,
        "patch_stride": [arch.patch_stride] * 2,
        "patch_padding": [arch.patch_padding] * 2,
        "mlp_ratio": 4.0,
        "depths": list(arch.depths),
        "num_heads": [arch.first_heads * 2**stage for stage in range(stages)],
        "embed_dim_multiplier": 2.0,
        "num_query_pool": arch.q_pool,
        "query_stride": [2, 2],
        "masked_unit_size": [arch.mask_unit] * 2,
        "masked_unit_attention": [stage < LOCAL_STAGES for stage in range(stages)],
        "drop_path_rate": 0.0,
        "num_channels": arch.channels,
        "hidden_act": "gelu",
        "layer_norm_eps": arch.norm_eps,
    }
    if arch.decoder:
        return config | {
            "architectures": ["HieraForPreTraining"],
            "decoder_hidden_size": arch.decoder["width"],
            "decoder_depth": arch.decoder["depth"],
            "decoder_num_heads": arch.decoder["heads"],
            "normalize_pixel_loss": objective.get("norm_pix", True),
            "mask_ratio": objective.get("mask_ratio", 0.6),
        }
    return config | {"architectures": ["HieraForImageClassification"]} | hf_labels(arch.classes, data)
