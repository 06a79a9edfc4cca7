"""Swin weights in: the layouts of SimMIM, MAE-Lite and Swin (microsoft), timm and transformers -> our parameters.

All are brought to the names of the official code ('layers.0.blocks.1.attn.qkv.weight'); sizes come from the shapes.
"""

import itertools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvit_jax.convert.names import move_to_jax
from lvit_jax.errors import InputError
from lvit_jax.models import ENCODERS
from lvit_jax.models.swin import swin
from lvit_jax.tree import flatten, unflatten

NORM_EPS = 1e-5
Weights = Mapping[str, np.ndarray]


class SwinArch(NamedTuple):
    """A Swin, perhaps with a classifier; `simmim` names its head where it is a SimMIM encoder with one."""

    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int
    patch_size: int
    channels: int
    image_size: tuple[int, int]
    classes: int | None = None
    simmim: str | None = None


# The first that is there is taken. 'encoder.' is SimMIM's, 'module.' and 'module.model.' are training frameworks'.
_PREFIXES = tuple(
    f"{outer}{inner}" for inner in ("encoder.", "") for outer in ("module.model.", "module.", "model.", "")
)
_BLOCK = r"(layers\.\d+\.blocks\.\d+)\."
_SPELLINGS = (  # of transformers, version 4 and 5; applied in order
    (r"^swin\.", ""),
    (r"^classifier\.", "head."),
    (r"^layernorm\.", "norm."),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^embeddings\.mask_token$", "mask_token"),
    (r"^encoder\.layers\.", "layers."),
    (_BLOCK + r"layernorm_before\.", r"\1.norm1."),
    (_BLOCK + r"layernorm_after\.", r"\1.norm2."),
    (_BLOCK + r"attention\.(?:self\.(query|key|value)|([qkv])_proj)\.", r"\1.attn.\2\3."),
    (_BLOCK + r"attention\.(?:output\.dense|o_proj)\.", r"\1.attn.proj."),
    (_BLOCK + r"attention\.(?:self|relative_position_bias)\.relative", r"\1.attn.relative"),
    (_BLOCK + r"intermediate\.dense\.", r"\1.mlp.fc1."),
    (_BLOCK + r"output\.dense\.", r"\1.mlp.fc2."),
)
_LEAVES = {
    "weight": {1: ("scale", "same"), 2: ("kernel", "dense"), 4: ("kernel", "conv")},
    "bias": {1: ("bias", "same")},
}


def is_swin(weights: Weights) -> bool:
    """Whether names are those of a Swin."""
    return any(name.endswith("relative_position_bias_table") and "layers.0.blocks.0." in name for name in weights)


def read_swin(weights: Weights, stated: Mapping[str, Any], where: str) -> tuple[dict, SwinArch, dict, list[str]]:
    """Tensors of a Swin in any of the layouts -> parameters, sizes, the config's sections, what was left out.

    Args:
      stated: what a config.json or the command line says: image_size (else 224), norm_eps.
      where: the file, for messages.

    Raises:
      InputError: a tensor that is missing, unknown or of another shape; another ε than Swin's; --heads other than
        those of the bias tables.
    """
    named, notes = _normalise(weights, where)
    named, left = _without_probe(named)
    flat = _flat(named)
    arch = _arch(flat, stated, where)
    if stated.get("norm_eps", NORM_EPS) != NORM_EPS:
        raise InputError(f"{where} has LayerNorms of ε {stated['norm_eps']}; a Swin's is {NORM_EPS}")
    if stated.get("heads") not in (None, list(arch.heads), arch.heads):
        raise InputError(f"{where} has {arch.heads} heads by its bias tables, not {stated['heads']}; leave out --heads")
    config = _config(arch)
    _check(flat, config["model"], arch, where)
    return unflatten(flat), arch, config, notes + left


def _normalise(weights: Weights, where: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """Tensors under the official names; the head of SimMIM under 'decoder.…' and 'decoder_pred.…'."""
    if any(name.startswith(("swin.", "embeddings.")) for name in weights):
        spelt = {}
        for name, array in weights.items():
            for pattern, new in _SPELLINGS:
                name = re.sub(pattern, new, name)
            spelt[name] = array
        return _without_buffers(_joined(spelt)), []
    prefix = next((p for p in _PREFIXES if f"{p}patch_embed.proj.weight" in weights), None)
    if prefix is None:
        raise InputError(f"{where} has no tensor 'patch_embed.proj.weight' under a prefix known here")
    outer = prefix.removesuffix("encoder.")
    named = {name.removeprefix(prefix): array for name, array in weights.items() if name.startswith(prefix)}
    if prefix != outer:
        heads = (f"{outer}decoder.", f"{outer}decoder_pred.")
        named |= {name.removeprefix(outer): array for name, array in weights.items() if name.startswith(heads)}
    kept = sum(name.startswith(outer) for name in weights)
    left = len(weights) - (kept if prefix == outer else len(named))
    if "layers.0.downsample.reduction.weight" not in named:  # timm: the merging opens the next stage
        named = {re.sub(r"^layers\.(\d+)\.downsample", _before, name): array for name, array in named.items()}
    named = {name.replace("head.fc.", "head."): array for name, array in named.items()}
    return _without_buffers(named), [f"left out {left} tensors of another model"] if left else []


def _before(found: re.Match) -> str:
    return f"layers.{int(found[1]) - 1}.downsample"


def _without_buffers(named: Weights) -> dict[str, np.ndarray]:
    return {name: x for name, x in named.items() if not name.endswith(("relative_position_index", "attn_mask"))}


def _joined(named: Weights) -> dict[str, np.ndarray]:
    """q, k and v, which transformers keeps apart, as one qkv."""
    made = {}
    for name, array in named.items():
        part = re.fullmatch(r"(.*\.attn\.)(query|key|value|q|k|v)\.(\w+)", name)
        if not part:
            made[name] = array
        elif part[2] in ("query", "q"):
            names = ("query", "key", "value") if part[2] == "query" else ("q", "k", "v")
            parts = [named[f"{part[1]}{n}.{part[3]}"] for n in names if f"{part[1]}{n}.{part[3]}" in named]
            made[f"{part[1]}qkv.{part[3]}"] = np.concatenate(parts)
    return made


def _without_probe(named: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Leaves out the partial block of a D² student, and the head and norm, which read an inner stage."""
    blocks = {m[1] for m in (re.match(_BLOCK, name) for name in named) if m}
    partial = tuple(f"{block}." for block in blocks if f"{block}.mlp.fc1.weight" not in named)
    if not partial:
        return named, []
    inner = (*partial, "norm.", "decoder.", "decoder_pred.")
    note = "D² on Swin: the partial last block, the head and the norm of stage 2 left out"
    return {name: array for name, array in named.items() if not name.startswith(inner)}, [note]


def _flat(named: Weights) -> dict[str, np.ndarray]:
    """Official names -> {our name: array}."""
    depths = _depths(named)
    classifier, conv = "head.weight" in named, named.get("decoder.0.weight")
    linear = conv is not None and conv.ndim == 4  # else MAE-Lite's: a Linear, a block, decoder_pred
    flat = {}
    for name, array in named.items():
        module, leaf = name.rsplit(".", 1) if "." in name else ("", name)
        module = re.sub(r"^layers\.(\d+)\.blocks\.(\d+)", lambda m: _block(m, depths), module)
        module = re.sub(
            r"^layers\.(\d+)\.downsample", lambda m: f"encoder/merge_{sum(depths[: int(m[1]) + 1]) - 1}", module
        )
        module = module.replace(".reduction", "").replace("patch_embed.proj", "encoder/patch_embed")
        module = module.replace("patch_embed.norm", "encoder/patch_norm")
        module = re.sub(r"^norm$", "head/norm" if classifier else "encoder/norm", module)
        module = re.sub(r"^head$", "head/fc", module)
        if linear:
            module = re.sub(r"^decoder\.0$", "decoder", module)
        module = module.replace("decoder.0", "decoder/embed").replace("decoder.1", "decoder/block_0")
        module = module.replace("decoder_pred.0", "decoder/head").replace(".", "/")
        if leaf == "relative_position_bias_table":
            flat[f"{module}/bias_table"] = array
        elif leaf == "mask_token":
            flat["encoder/mask_token"] = array
        elif array.ndim in _LEAVES.get(leaf, {}):
            ours, move = _LEAVES[leaf][array.ndim]
            flat[f"{module}/{ours}"] = _pixels(module, move_to_jax(array, move), linear)
        else:
            flat[name] = array
    return flat


def _pixels(module: str, array: np.ndarray, linear: bool) -> np.ndarray:
    """The last convolution of a SimMIM head as a Linear: pixel shuffle orders (channel, row, column), we channel last.

    [1,1,D,P] -> [D,P]; a bias [P] stays one; other modules' arrays stay as they are.
    """
    if module != ("decoder" if linear else "decoder/head"):
        return array
    lead, side = array.shape[-2:-1], round((array.shape[-1] / 3) ** 0.5)
    array = np.moveaxis(array.reshape(*lead, 3, side, side), -3, -1)
    return np.ascontiguousarray(array).reshape(*lead, -1)


def _block(found: re.Match, depths: tuple[int, ...]) -> str:
    return f"encoder/block_{sum(depths[: int(found[1])]) + int(found[2])}"


def _depths(named: Weights) -> tuple[int, ...]:
    found = {(int(m[1]), int(m[2])) for m in (re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", name) for name in named) if m}
    return tuple(1 + max(j for i, j in found if i == stage) for stage in range(1 + max(i for i, _ in found)))


def _arch(flat: Weights, stated: Mapping[str, Any], where: str) -> SwinArch:
    named = {name: array.shape for name, array in flat.items()}
    blocks = sum(1 for name in named if re.fullmatch(r"encoder/block_\d+/attn/bias_table", name))
    ends = [int(m[1]) + 1 for m in (re.fullmatch(r"encoder/merge_(\d+)/kernel", name) for name in named) if m]
    edges = [0, *sorted(ends), blocks]
    try:
        kernel = named["encoder/patch_embed/kernel"]
        tables = [named[f"encoder/block_{first}/attn/bias_table"] for first in edges[:-1]]
    except KeyError as missing:
        raise InputError(f"{where} has no parameter {missing}") from missing
    size = stated.get("image_size") or 224
    return SwinArch(
        width=kernel[3],
        depths=tuple(b - a for a, b in itertools.pairwise(edges)),
        heads=tuple(table[1] for table in tables),
        window=(round(tables[0][0] ** 0.5) + 1) // 2,
        patch_size=kernel[0],
        channels=kernel[2],
        image_size=(size, size) if isinstance(size, int) else tuple(size),
        classes=named["head/fc/bias"][0] if "head/fc/bias" in named else None,
        simmim="linear" if "decoder/kernel" in named else "block" if "decoder/head/kernel" in named else None,
    )


def _config(arch: SwinArch) -> dict[str, Any]:
    """The `model` and `objective` sections, as a run's config would have them."""
    same = [name for name, (kind, size) in ENCODERS.items() if kind == "swin" and size["width"] == arch.width]
    high, wide = arch.image_size
    sizes = {key: getattr(arch, key) for key in ("width", "depths", "heads", "window", "patch_size", "channels")}
    model = {"name": same[0] if same else "swin_c96", "image_size": high if high == wide else [high, wide]}
    model |= {key: list(value) if isinstance(value, tuple) else value for key, value in sizes.items()}
    model["dtype"] = "float32"
    objective = None
    if arch.classes:
        objective = {"name": "classify", "pool": "norm_mean", "classes": arch.classes}
    elif arch.simmim:
        objective = {"name": "simmim", "head": arch.simmim, "mask_ratio": 0.6, "mask_unit": 32, "norm_pix": False}
    return {"model": model, "objective": objective}


def _check(flat: Weights, model: Mapping[str, Any], arch: SwinArch, where: str) -> None:
    """Names and shapes of the encoder against our model's, one line for the first that differs."""
    encoder = swin(**{key: value for key, value in model.items() if key != "image_size"})
    images = jax.ShapeDtypeStruct((1, *arch.image_size, arch.channels), jnp.float32)
    tokens = (arch.image_size[0] // arch.patch_size) * (arch.image_size[1] // arch.patch_size)
    expected = jax.eval_shape(
        encoder.init, jax.random.key(0), images, mask=jax.ShapeDtypeStruct((1, tokens), jnp.float32)
    )
    expected = {f"encoder/{name}": leaf.shape for name, leaf in flatten(expected["params"]).items()}
    spare = ("encoder/norm/scale", "encoder/norm/bias", "encoder/mask_token")
    for name, shape in expected.items():
        if name not in flat and name not in spare:
            raise InputError(f"{where} has no tensor for {name}")
        if name in flat and flat[name].shape != shape:
            raise InputError(f"{where}: {name} has shape {flat[name].shape}, but the model's is {shape}")
    for name in flat:
        if name not in expected and not name.startswith(("head/", "decoder/")):
            raise InputError(f"{where} has a tensor {name!r} that a Swin of depths {arch.depths} has no place for")
