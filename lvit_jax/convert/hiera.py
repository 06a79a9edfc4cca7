"""Hiera to and from PyTorch: names, sizes and arrays, for both layouts.

Layouts:
  hiera: facebookresearch/hiera (Hiera, MaskedAutoencoderHiera), files of {"model_state": tensors}.
  hf: transformers' HieraForImageClassification and HieraForPreTraining.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from lvit_jax.convert.arch import NORM_EPS
from lvit_jax.convert.names import Row, move_to_jax, move_to_torch
from lvit_jax.errors import InputError
from lvit_jax.models import ENCODERS
from lvit_jax.tree import flatten, unflatten

# (jax module, name in the layout 'hiera', name in 'hf', kind)
_BLOCK = (
    ("norm1", "norm1", "layernorm_before", "norm"),
    ("attn/qkv", "attn.qkv", "attn.qkv", "dense"),
    ("attn/proj", "attn.proj", "attn.proj", "dense"),
    ("norm2", "norm2", "layernorm_after", "norm"),
    ("mlp/fc1", "mlp.fc1", "mlp.fc1", "dense"),
    ("mlp/fc2", "mlp.fc2", "mlp.fc2", "dense"),
    ("proj", "proj", "proj", "dense"),
)
_OUTER = (
    ("encoder/patch_embed", "patch_embed.proj", "hiera.embeddings.patch_embeddings.projection", "conv"),
    ("encoder/pos_embed", "pos_embed", "hiera.embeddings.position_embeddings", "leaf"),
    ("encoder/norm", "encoder_norm", "encoder_norm", "norm"),
    ("decoder/embed", "decoder_embed", "decoder.decoder_embeddings", "dense"),
    ("decoder/mask_token", "mask_token", "decoder.mask_token", "leaf"),
    ("decoder/pos_embed", "decoder_pos_embed", "decoder.decoder_position_embeddings", "leaf"),
    ("decoder/norm", "decoder_norm", "decoder.decoder_norm", "norm"),
    ("decoder/head", "decoder_pred", "decoder.decoder_pred", "dense"),
    ("head/norm", "norm", "hiera.pooler.layernorm", "norm"),
    ("head/fc", "head.projection", "classifier", "dense"),
)
_MOVES = {"norm": ("scale", "same"), "dense": ("kernel", "dense"), "conv": ("kernel", "conv")}
MASK_RATIO = 0.6  # the reference's
_PREFIXES = ("module.model.", "module.", "model.", "")


class HieraArch(NamedTuple):
    """A Hiera with the decoder of its MAE or with a classifier."""

    first_width: int
    depths: tuple[int, ...]
    first_heads: int
    channels: int
    image_size: tuple[int, int]
    patch_kernel: int = 7
    patch_stride: int = 4
    patch_padding: int = 3
    mask_unit: int = 8
    q_pool: int = 3
    norm_eps: float = NORM_EPS
    decoder: dict[str, int] | None = None  # width, depth, heads
    classes: int | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of mask units."""
        unit = self.patch_stride * self.mask_unit
        return self.image_size[0] // unit, self.image_size[1] // unit

    @property
    def heads(self) -> int:
        """Of the last stage."""
        return self.first_heads * 2 ** (len(self.depths) - 1)

    @property
    def pool(self) -> str | None:
        """The classifier's pooling, as a plain ViT's Arch has it."""
        return "mean" if self.classes else None


def find(names: Iterable[str]) -> tuple[str | None, dict[str, str]]:
    """Which layout of Hiera a file has, or None, and {name in the file: name in the table}."""
    names = list(names)
    if "hiera.embeddings.patch_embeddings.projection.weight" in names:
        return "hf", {name: name for name in names}
    for prefix in _PREFIXES:
        own = {name: name[len(prefix) :] for name in names if name.startswith(prefix)}
        # Only blocks of a Hiera project their residual.
        if "patch_embed.proj.weight" in own.values() and any(re.fullmatch(_CHANGE, name) for name in own.values()):
            return "hiera", own
    return None, {}


_CHANGE = r"blocks\.(\d+)\.proj\.weight"


def infer(weights: Mapping[str, np.ndarray], layout: str, stated: Mapping[str, Any], where: str) -> HieraArch:
    """The sizes of a model from the shapes of its tensors.

    Args:
      weights: tensors under the names of the table.
      layout: 'hiera' or 'hf'.
      stated: what a config.json or the command line says: `hiera` (fields of HieraArch), heads (of the last stage),
        decoder_heads, image_size, norm_eps. The reference's defaults stand for what shapes do not show.
      where: the file, for messages.

    Raises:
      InputError: neither a classifier nor a MAE, a video model, a head count that nothing states, no square grid.
    """
    said, hf = stated.get("hiera", {}), layout == "hf"
    patch = _get(weights, _outer("encoder/patch_embed", hf) + ".weight", where)
    positions = _get(weights, _outer("encoder/pos_embed", hf), where).shape[1]
    if patch.ndim != 4:
        raise InputError(f"{where} is a Hiera for video, its patch embedding has {patch.ndim} axes; images have 4")
    depths = _depths(weights, hf)
    stride = said.get("patch_stride", 4)
    fused = _count(weights, (r"multiscale_fusion\." if hf else "") + r"multi_scale_fusion_heads\.(\d+)\.weight")
    head = weights.get(_outer("head/fc", hf) + ".weight")
    decoder = _decoder(weights, hf, stated, where)
    if head is None and decoder is None:
        raise InputError(f"{where} holds a Hiera without classifier and without decoder; one of them is needed")
    return HieraArch(
        first_width=patch.shape[0],
        depths=depths,
        first_heads=_first_heads(patch.shape[0], depths, stated, where),
        channels=patch.shape[1],
        image_size=_image_size(positions, stride, stated.get("image_size"), where),
        patch_kernel=patch.shape[2],
        patch_stride=stride,
        patch_padding=said.get("patch_padding", (patch.shape[2] - 1) // 2),
        mask_unit=said.get("mask_unit", 8),
        q_pool=fused if decoder else said.get("q_pool", 3),
        norm_eps=stated.get("norm_eps") or NORM_EPS,
        decoder=decoder,
        classes=None if head is None else head.shape[0],
    )


def _outer(jax_name: str, hf: bool) -> str:
    return next(row[1 + hf] for row in _OUTER if row[0] == jax_name)


def _get(weights: Mapping[str, np.ndarray], name: str, where: str) -> np.ndarray:
    if name not in weights:
        raise InputError(f"{where} has no tensor {name!r}")
    return weights[name]


def _count(weights: Iterable[str], pattern: str) -> int:
    return max((int(m[1]) for m in (re.fullmatch(pattern, name) for name in weights) if m), default=-1) + 1


def _depths(weights: Mapping[str, np.ndarray], hf: bool) -> tuple[int, ...]:
    """Blocks per stage: a stage begins where a block changes the width."""
    if hf:
        stages = _count(weights, r"hiera\.encoder\.stages\.(\d+)\..*")
        return tuple(_count(weights, rf"hiera\.encoder\.stages\.{s}\.layers\.(\d+)\..*") for s in range(stages))
    starts = sorted(int(m[1]) for m in (re.fullmatch(_CHANGE, name) for name in weights) if m)
    ends = [*starts, _count(weights, r"blocks\.(\d+)\..*")]
    return tuple(b - a for a, b in zip([0, *starts], ends, strict=True))


def _first_heads(width: int, depths: tuple[int, ...], stated: Mapping[str, Any], where: str) -> int:
    """What is said, else the count of the size of this width: it does not show in shapes."""
    last = stated.get("heads")
    if last is not None:
        factor = 2 ** (len(depths) - 1)
        if last % factor or width % (last // factor):
            raise InputError(f"--heads={last} of the last stage does not fit {where}; official sizes have 8, 16 or 32")
        return last // factor
    known = {size["first_width"]: size["first_heads"] for kind, size in ENCODERS.values() if kind == "hiera"}
    if width not in known:
        raise InputError(f"{where} does not state its number of attention heads; say the last stage's with --heads=N")
    return known[width]


def _image_size(positions: int, stride: int, stated: Any, where: str) -> tuple[int, int]:
    side = math.isqrt(positions)
    if stated is None and side * side != positions:
        raise InputError(f"{where} has {positions} positions, no square; say --image-size=HEIGHTxWIDTH")
    size = (side * stride,) * 2 if stated is None else stated
    size = (size, size) if isinstance(size, int) else tuple(size)
    if (size[0] // stride) * (size[1] // stride) != positions:
        raise InputError(f"{where} has {positions} positions, but {size[0]}x{size[1]} with stride {stride} has others")
    return size


def _decoder(weights: Mapping[str, np.ndarray], hf: bool, stated: Mapping, where: str) -> dict[str, int] | None:
    embed = weights.get(_outer("decoder/embed", hf) + ".weight")
    if embed is None:
        return None
    width = embed.shape[0]
    heads = stated.get("decoder_heads") or (16 if width == 512 else max(1, width // 32))
    if width % heads:
        raise InputError(f"--decoder-heads={heads} does not divide the decoder width {width} of {where}")
    pattern = r"decoder\.decoder_block\.layers\.(\d+)\..*" if hf else r"decoder_blocks\.(\d+)\..*"
    return {"width": width, "depth": _count(weights, pattern), "heads": heads}


def rows(arch: HieraArch, layout: str) -> list[Row]:
    """The table of one model, one row per jax leaf."""
    shape, hf = shapes(arch), layout == "hf"
    named = [(jax_name, (own, theirs)[hf], kind) for jax_name, own, theirs, kind in _OUTER]
    stages = [(stage, j) for stage, depth in enumerate(arch.depths) for j in range(depth)]
    for i, (stage, j) in enumerate(stages):
        named += _block(f"encoder/block_{i}", f"hiera.encoder.stages.{stage}.layers.{j}" if hf else f"blocks.{i}", hf)
    for i in range(arch.decoder["depth"] if arch.decoder else 0):
        named += _block(f"decoder/block_{i}", f"decoder.decoder_block.layers.{i}" if hf else f"decoder_blocks.{i}", hf)
    made = [row for name in named for row in _leaves(*name)]
    for i in range(arch.q_pool if arch.decoder else 0):
        torch = f"{'multiscale_fusion.' if hf else ''}multi_scale_fusion_heads.{i}"
        made += [Row(f"encoder/fusion/kernel_{i}", (f"{torch}.weight",), "conv")]
        made += [Row(f"encoder/fusion/bias_{i}", (f"{torch}.bias",), "same")]
    return [row for row in made if row.jax in shape]


def _block(jax_name: str, torch: str, hf: bool) -> list[tuple[str, str, str]]:
    return [(f"{jax_name}/{part}", f"{torch}.{(own, theirs)[hf]}", kind) for part, own, theirs, kind in _BLOCK]


def _leaves(jax_name: str, torch: str, kind: str) -> list[Row]:
    if kind == "leaf":
        return [Row(jax_name, (torch,), "same")]
    weight, move = _MOVES[kind]
    return [
        Row(f"{jax_name}/{weight}", (f"{torch}.weight",), move),
        Row(f"{jax_name}/bias", (f"{torch}.bias",), "same"),
    ]


def model_of(arch: HieraArch, mask_ratio: float = 0.5) -> Any:
    """The classifier or masked autoencoder of these sizes, in float32."""
    from lvit_jax.models.heads import classifier  # jax: seconds, which a wrong file name need not cost
    from lvit_jax.models.hiera import hiera
    from lvit_jax.models.mim import masked_autoencoder

    encoder = hiera(**{key: value for key, value in section(arch).items() if key != "image_size"})
    return masked_autoencoder(encoder, arch.decoder, mask_ratio) if arch.decoder else classifier(encoder, arch.classes)


def shapes(arch: HieraArch) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter, by its jax name."""
    import jax
    import jax.numpy as jnp

    model, images = model_of(arch), jnp.zeros((1, *arch.image_size, arch.channels))
    given = (images, model.noise(jax.random.key(0), images)) if arch.decoder else (images,)
    abstract = jax.eval_shape(model.init, jax.random.key(0), *given)["params"]
    return {name: leaf.shape for name, leaf in flatten(abstract).items()}


def to_torch(params: Mapping, arch: HieraArch, layout: str) -> dict[str, np.ndarray]:
    """A tree of parameters as torch tensors (numpy, float32).

    Raises:
      InputError: a parameter that is missing or has another shape.
    """
    flat, expected, weights = flatten(params), shapes(arch), {}
    for row in rows(arch, layout):
        if row.jax not in flat:
            raise InputError(f"the run has no parameter {row.jax!r}")
        array = np.asarray(flat[row.jax], np.float32)
        if array.shape != expected[row.jax]:
            raise InputError(f"{row.jax} has shape {array.shape}, its config says {expected[row.jax]}")
        weights[row.torch[0]] = move_to_torch(array, row.move)
    return weights


def from_torch(weights: Mapping[str, np.ndarray], arch: HieraArch, layout: str, where: str) -> dict[str, Any]:
    """Torch tensors as a tree of parameters (float32): every tensor is used, every parameter is filled.

    Raises:
      InputError: names the first missing or unknown tensor, or the first of another shape, with both shapes.
    """
    table, expected = rows(arch, layout), shapes(arch)
    known = {row.torch[0] for row in table}
    for name in weights:
        if name not in known:
            raise InputError(f"{where} has a tensor {name!r} that a Hiera of depths {arch.depths} has no place for")
    flat = {}
    for row in table:
        array = np.asarray(_get(weights, row.torch[0], where), np.float32)
        wanted = move_to_torch(np.empty(expected[row.jax], np.bool_), row.move).shape
        if array.shape != wanted:
            raise InputError(f"{where}: {row.torch[0]} has shape {array.shape}, but the model's is {wanted}")
        flat[row.jax] = move_to_jax(array, row.move)
    return unflatten(flat)


def section(arch: HieraArch) -> dict[str, Any]:
    """The `model` section that describes imported weights, as a run's config would."""
    sizes = {key: getattr(arch, key) for key in ("first_width", "depths", "first_heads")}
    same = [name for name, size in ENCODERS.items() if size == ("hiera", sizes)]
    keys = ("channels", "patch_kernel", "patch_stride", "patch_padding", "mask_unit", "q_pool", "norm_eps")
    return {
        "name": same[0] if same else "hiera_tiny",
        "image_size": arch.image_size[0] if arch.image_size[0] == arch.image_size[1] else list(arch.image_size),
        **sizes,
        **{key: getattr(arch, key) for key in keys},
        "dtype": "float32",  # of evaluations and predictions: what the weights were compared in
    }


def config_of(arch: HieraArch, objective: Mapping[str, Any]) -> dict[str, Any]:
    """The `model` and `objective` sections; objective: further settings that the file states."""
    masking = {"mask_ratio": MASK_RATIO, "norm_pix": True, **objective}
    if arch.decoder:
        return {"model": section(arch), "objective": {"name": "mae", "decoder": arch.decoder, **masking}}
    return {"model": section(arch), "objective": {"name": "classify", "pool": "mean", "classes": arch.classes}}
