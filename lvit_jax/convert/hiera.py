"""Hiera to and from PyTorch, in both layouts of `hiera_names`: sizes and arrays."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from lvit_jax.convert.arch import NORM_EPS
from lvit_jax.convert.hiera_names import CHANGE, outer, rows
from lvit_jax.convert.names import Row
from lvit_jax.convert.params import read_row, write_rows
from lvit_jax.errors import InputError
from lvit_jax.models import ENCODERS
from lvit_jax.tree import flatten, unflatten

MASK_RATIO = 0.6  # the reference's


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
    patch = _get(weights, outer("encoder/patch_embed", layout) + ".weight", where)
    positions = _get(weights, outer("encoder/pos_embed", layout), where).shape[1]
    if patch.ndim != 4:
        raise InputError(f"{where} is a Hiera for video, its patch embedding has {patch.ndim} axes; images have 4")
    depths = _depths(weights, hf)
    stride = said.get("patch_stride", 4)
    fused = _count(weights, (r"multiscale_fusion\." if hf else "") + r"multi_scale_fusion_heads\.(\d+)\.weight")
    head = weights.get(outer("head/fc", layout) + ".weight")
    decoder = _decoder(weights, layout, stated, where)
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
    starts = sorted(int(m[1]) for m in (re.fullmatch(CHANGE, name) for name in weights) if m)
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


def _decoder(weights: Mapping[str, np.ndarray], layout: str, stated: Mapping, where: str) -> dict[str, int] | None:
    embed = weights.get(outer("decoder/embed", layout) + ".weight")
    if embed is None:
        return None
    width = embed.shape[0]
    heads = stated.get("decoder_heads") or (16 if width == 512 else max(1, width // 32))
    if width % heads:
        raise InputError(f"--decoder-heads={heads} does not divide the decoder width {width} of {where}")
    pattern = r"decoder\.decoder_block\.layers\.(\d+)\..*" if layout == "hf" else r"decoder_blocks\.(\d+)\..*"
    return {"width": width, "depth": _count(weights, pattern), "heads": heads}


def _rows(arch: HieraArch, layout: str, shape: Mapping[str, Any]) -> list[Row]:
    decoder = arch.decoder["depth"] if arch.decoder else 0
    made = rows(layout, arch.depths, decoder, arch.q_pool if arch.decoder else 0)
    return [row for row in made if row.jax in shape]


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
    expected = shapes(arch)
    return write_rows(flatten(params), _rows(arch, layout, expected), expected)


def from_torch(weights: Mapping[str, np.ndarray], arch: HieraArch, layout: str, where: str) -> dict[str, Any]:
    """Torch tensors as a tree of parameters (float32): every tensor is used, every parameter is filled.

    Raises:
      InputError: names the first missing or unknown tensor, or the first of another shape, with both shapes.
    """
    expected = shapes(arch)
    table = _rows(arch, layout, expected)
    known = {row.torch[0] for row in table}
    for name in weights:
        if name not in known:
            raise InputError(f"{where} has a tensor {name!r} that a Hiera of depths {arch.depths} has no place for")
    return unflatten({row.jax: read_row(weights, row, expected[row.jax], where) for row in table})


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
