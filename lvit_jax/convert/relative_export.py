"""A trained ViT with relative positions written for PyTorch: a file of MAE-Lite's, or a folder of timm's BEiT."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lvit_jax.convert import files
from lvit_jax.convert.arch import NORM_EPS
from lvit_jax.convert.folders import timm_folder
from lvit_jax.convert.relative import RelativeArch, to_torch
from lvit_jax.errors import InputError
from lvit_jax.models.relative import relative_index
from lvit_jax.tree import flatten, unflatten

POOLS = ("mean", "cls")


def arch_of(record: Mapping[str, Any], params: Mapping[str, Any], decoder: bool) -> RelativeArch:
    """What a run or an import holds.

    Args:
      record: of `training.record.read_record`.
      params: the tree of its parameters.
      decoder: these models have none.

    Raises:
      InputError: another ε or pooling than PyTorch's have, or a decoder was asked for.
    """
    from lvit_jax.models.vit_rpe import vit_rpe  # jax: seconds, which a wrong workdir need not cost

    model, objective = record["config"]["model"], record["config"]["objective"] or {}
    encoder = vit_rpe(**{key: value for key, value in model.items() if key != "image_size"})
    size, pool = model["image_size"], objective.get("pool", "mean") if "head" in params else None
    if decoder:
        raise InputError(f"there is no decoder in this {objective.get('name', 'backbone')}")
    if encoder.norm_eps != NORM_EPS:
        raise InputError(f"norm_eps={encoder.norm_eps}: PyTorch's ViTs with relative positions have {NORM_EPS}")
    if pool not in (None, *POOLS):
        raise InputError(f"pool={pool!r}: PyTorch's ViTs with relative positions pool by {' or '.join(POOLS)}")
    kept = ("width", "depth", "heads", "patch_size", "channels", "positions", "qv_bias", "layer_scale", "shared_table")
    return RelativeArch(
        **{key: getattr(encoder, key) for key in kept},
        image_size=(size, size) if isinstance(size, int) else tuple(size),
        pool=pool,
        classes=params["head"]["fc"]["bias"].shape[0] if pool else None,
    )


def write(
    folder: Path,
    to: str,
    params: Mapping[str, Any],
    arch: RelativeArch,
    data: Mapping[str, Any],
    _: Mapping[str, Any],
    notes: Mapping[str, Any],
) -> bool:
    """As `export.write`, for a ViT with relative positions.

    Raises:
      InputError: transformers' format; images that are not square in timm's.
    """
    if to == "hf":
        raise InputError("a ViT with relative positions is exported --to=timm or --to=mae, not --to=hf")
    if to == "mae":
        return files.write_file(folder / "rpe", to_torch(params, arch) | buffers(arch), notes)
    config = timm_config(arch, data, notes.get("licence"))
    files.write_safetensors(folder / "model.safetensors", to_torch(*without_key_bias(params, arch)))
    files.write_json(folder / "config.json", config | {"lvit_jax": dict(notes)})
    return False


def buffers(arch: RelativeArch) -> dict[str, np.ndarray]:
    """The index of every bias table, which MAE-Lite's files hold beside it."""
    index = relative_index(arch.grid).astype(np.int64)
    places = ["rel_pos_bias"] if arch.shared_table else [f"blocks.{i}.attn" for i in range(arch.depth)]
    return {f"{place}.relative_position_index": index.copy() for place in places}


def without_key_bias(params: Mapping[str, Any], arch: RelativeArch) -> tuple[dict[str, Any], RelativeArch]:
    """The same function with biases of queries and values alone, the only ones that timm's BEiT has.

    A bias b of the keys adds q·b to every logit of a query q, which its softmax takes away again.
    """
    if arch.qv_bias:
        return dict(params), arch
    made = {}
    for name, leaf in flatten(params).items():
        if not name.endswith("attn/qkv/bias"):
            made[name] = leaf
            continue
        start = name.removesuffix("qkv/bias")
        made[f"{start}q_bias"], _, made[f"{start}v_bias"] = np.split(np.asarray(leaf), 3)
    return unflatten(made), arch._replace(qv_bias=True)


def timm_config(arch: RelativeArch, data: Mapping[str, Any], licence: str | None) -> dict[str, Any]:
    """config.json of a timm folder.

    Raises:
      InputError: images that are not square: timm resizes their bias tables as it loads them.
    """
    high, wide = arch.image_size
    if high != wide:
        raise InputError(f"image_size={high}x{wide}: timm resizes tables that are not square: --to=mae is the way")
    args = {
        "depth": arch.depth,
        "num_heads": arch.heads,
        "init_values": 0.1 if arch.layer_scale is not None else 0.0,  # any number but 0 makes LayerScales to load into
        "use_abs_pos_emb": arch.positions != "none",
        "use_rel_pos_bias": not arch.shared_table,
        "use_shared_rel_pos_bias": arch.shared_table,
        "global_pool": "avg" if arch.pool == "mean" else "token",
    }
    return timm_folder("beit_base_patch16_224", arch, args, data, licence)
