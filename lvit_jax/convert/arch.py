"""What a file of weights is: sizes read from its shapes or from a record, and the shape of every parameter."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lvit_jax.errors import InputError

NORM_EPS = 1e-6  # of MAE, MAE-Lite and timm; transformers folders state their own


class Arch(NamedTuple):
    """A plain ViT, perhaps with the decoder of a MAE or with a classifier."""

    width: int
    depth: int
    heads: int
    patch_size: int
    channels: int
    image_size: tuple[int, int]
    positions: str = "sincos"  # a fixed table of models.positions, or "learned"
    norm_eps: float = NORM_EPS
    decoder: dict[str, Any] | None = None  # width, depth, heads, positions
    pool: str | None = None  # mean | cls: the classifier's
    classes: int | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size


def infer(weights: Mapping[str, np.ndarray], layout: str, stated: Mapping[str, Any], where: str) -> Arch:
    """The sizes of a model from the shapes of its tensors.

    Args:
      weights: tensors under the names of `names.rows`.
      layout: 'mae' or 'hf'.
      stated: what a config.json or the command line says: heads, image_size, norm_eps, decoder_heads, pool.
      where: the file, for messages.

    Raises:
      InputError: a head count that nothing states or that does not divide the width, no CLS token, no square grid.
    """
    hf = layout == "hf"
    patch = _get(weights, f"{'vit.embeddings.patch_embeddings.projection' if hf else 'patch_embed.proj'}.weight", where)
    table = _get(weights, "vit.embeddings.position_embeddings" if hf else "pos_embed", where)
    width, channels, patch_size = patch.shape[:3]
    pool, classes = _classifier(weights, layout, stated, where)
    arch = Arch(
        width=width,
        depth=_count(weights, r"vit\.encoder\.layer\.(\d+)\.attention\.output\.dense\.weight" if hf else _PROJ),
        heads=_heads(stated.get("heads"), width, "heads", where),
        patch_size=patch_size,
        channels=channels,
        image_size=_image_size(table.shape[1] - 1, patch_size, stated.get("image_size"), where),
        norm_eps=stated.get("norm_eps") or NORM_EPS,
        decoder=_decoder(weights, layout, stated, where),
        pool=pool,
        classes=classes,
    )
    return arch


_PROJ = r"blocks\.(\d+)\.attn\.proj\.weight"  # a 13th block of D²-MAE has none, so it is not counted


def _get(weights: Mapping[str, np.ndarray], name: str, where: str) -> np.ndarray:
    if name not in weights:
        raise InputError(f"{where} has no tensor {name!r}")
    return weights[name]


def _count(weights: Mapping[str, np.ndarray], pattern: str) -> int:
    found = [int(m[1]) for m in (re.fullmatch(pattern, name) for name in weights) if m]
    return max(found, default=-1) + 1


def _heads(heads: int | None, width: int, flag: str, where: str) -> int:
    if heads is None:
        raise InputError(f"{where} does not state its number of attention heads; say it with --{flag}=N")
    if heads < 1 or width % heads:
        divisors = [h for h in range(1, width + 1) if width % h == 0]
        near = min(divisors, key=lambda h: abs(h - heads))
        raise InputError(f"--{flag}={heads} does not divide the width {width} of {where}; nearest: {near}")
    return heads


def _image_size(patches: int, patch_size: int, stated: Any, where: str) -> tuple[int, int]:
    side = math.isqrt(patches)
    if stated is None and side * side != patches:
        raise InputError(f"{where} has {patches} positions, no square; say --image-size=HEIGHTxWIDTH")
    size = (side * patch_size,) * 2 if stated is None else (stated if isinstance(stated, int) else tuple(stated))
    size = (size, size) if isinstance(size, int) else size
    if (size[0] // patch_size) * (size[1] // patch_size) != patches:
        raise InputError(f"{where} has {patches} positions, but {size[0]}x{size[1]} with patch {patch_size} has others")
    return size


def _decoder(weights: Mapping[str, np.ndarray], layout: str, stated: Mapping, where: str) -> dict[str, Any] | None:
    hf = layout == "hf"
    embed = weights.get("decoder.decoder_embed.weight" if hf else "decoder_embed.weight")
    if embed is None:
        return None
    width = embed.shape[0]
    # MAE's decoders of width 512 have 16 heads; MAE-Lite's narrow ones keep the head width of 32.
    default = 16 if width == 512 else max(1, width // 32)
    pattern = r"decoder\.decoder_layers\.(\d+)\.output\.dense\.weight" if hf else r"decoder_blocks\.(\d+)\.mlp.*"
    return {
        "width": width,
        "depth": _count(weights, pattern),
        "heads": _heads(stated.get("decoder_heads") or default, width, "decoder-heads", where),
        "positions": "sincos",
    }


def _classifier(weights: Mapping[str, np.ndarray], layout: str, stated: Mapping, where: str) -> tuple:
    head = weights.get("classifier.weight" if layout == "hf" else "head.weight")
    if head is None:
        return None, None
    pool = "cls" if layout == "hf" else ("mean" if "fc_norm.weight" in weights else "cls")
    if stated.get("pool", pool) != pool:
        raise InputError(f"{where} pools by {stated['pool']} with the norm of {pool} pooling, which no model here has")
    return pool, head.shape[0]


def shapes(arch: Arch) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter, by its jax name; position tables included, stored or not."""
    d, p, n = arch.width, arch.patch_size, 1 + math.prod(arch.grid)
    made = {
        "encoder/cls_token": (1, 1, d),
        "encoder/pos_embed": (1, n, d),
        "encoder/patch_embed/kernel": (p, p, arch.channels, d),
        "encoder/patch_embed/bias": (d,),
    }
    for i in range(arch.depth):
        made |= _block(f"encoder/block_{i}", d)
    if arch.pool:
        return made | _norm("head/norm", d) | _dense("head/fc", d, arch.classes)
    made |= _norm("encoder/norm", d)
    if arch.decoder:
        e = arch.decoder["width"]
        made |= {"decoder/mask_token": (1, 1, e), "decoder/pos_embed": (1, n, e)} | _dense("decoder/embed", d, e)
        for i in range(arch.decoder["depth"]):
            made |= _block(f"decoder/block_{i}", e)
        made |= _norm("decoder/norm", e) | _dense("decoder/head", e, p * p * arch.channels)
    return made


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}/scale": (width,), f"{name}/bias": (width,)}


def _dense(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}/kernel": (inputs, outputs), f"{name}/bias": (outputs,)}


def _block(name: str, d: int) -> dict[str, tuple[int, ...]]:
    attention = _norm(f"{name}/norm1", d) | _dense(f"{name}/attn/qkv", d, 3 * d) | _dense(f"{name}/attn/proj", d, d)
    mlp = _norm(f"{name}/norm2", d) | _dense(f"{name}/mlp/fc1", d, 4 * d) | _dense(f"{name}/mlp/fc2", 4 * d, d)
    return attention | mlp
