"""Swin to and from PyTorch, in all layouts of `swin_names`: sizes and arrays."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from lvit_jax.convert.names import Row
from lvit_jax.convert.params import read_row, write_rows
from lvit_jax.convert.swin_names import BUFFERS, find, rows
from lvit_jax.errors import InputError
from lvit_jax.models import ENCODERS
from lvit_jax.tree import flatten, unflatten

NORM_EPS = 1e-5
LAST = ("decoder", "decoder/head")  # the Linear to pixels of a SimMIM head: all of it, or behind MAE-Lite's block
Weights = Mapping[str, np.ndarray]


class SwinArch(NamedTuple):
    """A Swin, perhaps with a classifier or the head of SimMIM."""

    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int
    patch_size: int
    channels: int
    image_size: tuple[int, int]
    final_norm: bool = False  # of the encoder: a classifier's is its head's, a D² student has none
    mask_token: bool = False
    classes: int | None = None
    decoder: str | dict[str, int] | None = None  # "linear", or width, heads and window of MAE-Lite's block

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def scale(self) -> int:
        """What the mergings shrink a side by, and widen tokens by."""
        return 2 ** (len(self.depths) - 1)

    @property
    def pool(self) -> str | None:
        """The classifier's pooling."""
        return "norm_mean" if self.classes else None

    @property
    def norm_eps(self) -> float:
        """Of every norm: no layout can state another."""
        return NORM_EPS


def read_swin(weights: Weights, stated: Mapping[str, Any], where: str) -> tuple[dict, SwinArch, list[str]]:
    """Tensors of a Swin in any of the layouts -> parameters, sizes, what was left out.

    Args:
      stated: what a config.json or the command line says: image_size (else 224), norm_eps.
      where: the file, for messages.

    Raises:
      InputError: a tensor that is missing, unknown or of another shape; another ε than Swin's; --heads other than
        those of the bias tables.
    """
    layout, names = find(weights)
    if layout is None:
        raise InputError(f"{where} has no tensor 'patch_embed.proj.weight' under a prefix known here")
    named, notes = _without_probe({name: weights[spelt] for spelt, name in names.items()})
    left = sum(not name.endswith(BUFFERS) for name in weights) - len(names)
    notes = [f"left out {left} tensors of another model", *notes] if left else notes
    arch = infer(named, layout, stated, where)
    return from_torch(named, arch, layout, where), arch, notes


def is_swin(weights: Weights) -> bool:
    """Whether names are those of a Swin."""
    return any(name.endswith("relative_position_bias_table") and "layers.0.blocks.0." in name for name in weights)


def _without_probe(named: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Leaves out the partial block of a D² student, and the head and norm, which read an inner stage."""
    found = (re.match(r"((?:encoder\.)?layers\.\d+\.blocks\.\d+\.)attn\.qkv\.", name) for name in named)
    partial = tuple({m[1] for m in found if m and f"{m[1]}mlp.fc1.weight" not in named})
    if not partial:
        return named, []
    inner = (*partial, "norm.", "encoder.norm.", "decoder.", "decoder_pred.")
    note = "D² on Swin: the partial last block, the head and the norm of stage 2 left out"
    return {name: array for name, array in named.items() if not name.startswith(inner)}, [note]


def infer(named: Weights, layout: str, stated: Mapping[str, Any], where: str) -> SwinArch:
    """The sizes, from the shapes of tensors under the names of the table: a bias table has a column per head.

    Raises:
      InputError: a tensor that every Swin has is missing, or what is stated contradicts the shapes.
    """
    depths = _depths(named)
    place = {row.jax: row.torch[0] for row in rows(layout, depths)}

    def shape(jax_name: str) -> tuple[int, ...]:
        if place[jax_name] not in named:
            raise InputError(f"{where} has no tensor {place[jax_name]!r}")
        return named[place[jax_name]].shape

    def has(jax_name: str) -> bool:
        return place.get(jax_name) in named

    width, channels, patch_size = shape("encoder/patch_embed/kernel")[:3]
    tables = [shape(f"encoder/block_{sum(depths[:stage])}/attn/bias_table") for stage in range(len(depths))]
    size, classifies = stated.get("image_size") or 224, has("head/fc/bias")
    arch = SwinArch(
        width=width,
        depths=depths,
        heads=tuple(table[1] for table in tables),
        window=side_of(tables[0][0]),
        patch_size=patch_size,
        channels=channels,
        image_size=(size, size) if isinstance(size, int) else tuple(size),
        final_norm=has("encoder/norm/scale") and not classifies,
        mask_token=has("encoder/mask_token"),
        classes=shape("head/fc/bias")[0] if classifies else None,
        decoder=_decoder(named),
    )
    if stated.get("norm_eps", NORM_EPS) != NORM_EPS:
        raise InputError(f"{where} has LayerNorms of ε {stated['norm_eps']}; a Swin's is {NORM_EPS}")
    if stated.get("heads") not in (None, list(arch.heads), arch.heads):
        raise InputError(f"{where} has {arch.heads} heads by its bias tables, not {stated['heads']}; leave out --heads")
    return arch


def side_of(table: int) -> int:
    """The side of the window that a bias table of so many rows is for."""
    return (round(table**0.5) + 1) // 2


def _depths(named: Weights) -> tuple[int, ...]:
    found = [m for m in (re.search(r"layers\.(\d+)\.blocks\.(\d+)\.", name) for name in named) if m]
    last = {int(m[1]): 0 for m in sorted(found, key=lambda m: int(m[1]))}
    for m in found:
        last[int(m[1])] = max(last[int(m[1])], int(m[2]))
    return tuple(1 + last.get(stage, -1) for stage in range(1 + max(last)))


def _decoder(named: Weights) -> str | dict[str, int] | None:
    first, table = named.get("decoder.0.weight"), named.get("decoder.1.attn.relative_position_bias_table")
    if first is None:
        return None
    if first.ndim == 4 or table is None:
        return "linear"
    return {"width": first.shape[0], "heads": table.shape[1], "window": side_of(table.shape[0])}


def from_torch(named: Weights, arch: SwinArch, layout: str, where: str) -> dict[str, Any]:
    """Tensors under the names of the table as a tree of parameters: every tensor is used, every parameter is filled.

    Raises:
      InputError: names the first tensor that is missing, has another shape, or has no place.
    """
    expected = shapes(arch)
    table = _rows(arch, layout, expected)
    known = {name for row in table for name in row.torch}
    for name in named:
        if name not in known:
            raise InputError(f"{where} has a tensor {name!r} that a Swin of depths {arch.depths} has no place for")
    flat = {row.jax: read_row(named, row, expected[row.jax], where) for row in table}
    return unflatten(_pixels(flat, arch, back=True))


def to_torch(params: Mapping, arch: SwinArch, layout: str) -> dict[str, np.ndarray]:
    """What of a tree of parameters `arch` has, as torch tensors (numpy, float32).

    Raises:
      InputError: a parameter that is missing or has another shape.
    """
    expected = shapes(arch)
    return write_rows(_pixels(flatten(params), arch, back=False), _rows(arch, layout, expected), expected)


def _rows(arch: SwinArch, layout: str, expected: Mapping[str, Any]) -> list[Row]:
    return [row for row in rows(layout, arch.depths) if row.jax in expected]


def _pixels(flat: Mapping[str, np.ndarray], arch: SwinArch, back: bool) -> dict[str, np.ndarray]:
    """The last Linear of a SimMIM head as a 1x1 convolution, kernel [D,P] -> [1,1,D,P]; or `back`.

    Pixel shuffle orders the outputs (channel, row, column), we channel last.
    """
    made = dict(flat)
    for module in LAST:
        kernel, bias = f"{module}/kernel", f"{module}/bias"
        if kernel not in flat:
            continue
        side = round((flat[bias].size / arch.channels) ** 0.5)
        order = np.arange(flat[bias].size).reshape(side, side, arch.channels).transpose(2, 0, 1).ravel()
        order = np.argsort(order) if back else order
        moved = np.asarray(flat[kernel])[..., order]
        made |= {kernel: moved[0, 0] if back else moved[None, None], bias: np.asarray(flat[bias])[order]}
    return made


def model_of(arch: SwinArch) -> Any:
    """The classifier or the bare encoder of these sizes, in float32."""
    from lvit_jax.models.heads import classifier  # jax: seconds, which a wrong file name need not cost
    from lvit_jax.models.swin import swin

    encoder = swin(**{key: value for key, value in section(arch).items() if key != "image_size"})
    return classifier(encoder, arch.classes, arch.pool) if arch.classes else encoder.clone(final_norm=arch.final_norm)


def shapes(arch: SwinArch) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter, by its jax name; the last Linear of a SimMIM head as a convolution."""
    import jax
    import jax.numpy as jnp

    made, model, images = {}, model_of(arch), jnp.zeros((1, *arch.image_size, arch.channels))
    abstract = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    made |= {name: leaf.shape for name, leaf in flatten(abstract if arch.classes else {"encoder": abstract}).items()}
    made |= {"encoder/mask_token": (1, 1, arch.width)} if arch.mask_token else {}
    if not arch.decoder:
        return made
    width, pixels = arch.width * arch.scale, arch.channels * (arch.patch_size * arch.scale) ** 2
    if arch.decoder == "linear":
        return made | {"decoder/kernel": (1, 1, width, pixels), "decoder/bias": (pixels,)}
    size, side = arch.decoder["width"], arch.decoder["window"]
    init = partial(head_block(arch).init, grid=(side, side), train=False)
    block = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, side**2, size)))
    made |= {"decoder/embed/kernel": (width, size), "decoder/embed/bias": (size,)}
    made |= {f"decoder/block_0/{name}": leaf.shape for name, leaf in flatten(block["params"]).items()}
    return made | {"decoder/head/kernel": (1, 1, size, pixels), "decoder/head/bias": (pixels,)}


def head_block(arch: SwinArch) -> Any:
    """The block in MAE-Lite's head of SimMIM."""
    from lvit_jax.models.swin import SwinBlock

    return SwinBlock(arch.decoder["heads"], arch.decoder["window"], 0, 0.0, np.dtype("float32"), norm_eps=arch.norm_eps)


def section(arch: SwinArch) -> dict[str, Any]:
    """The `model` section that describes imported weights, as a run's config would."""
    same = [name for name, (kind, size) in ENCODERS.items() if kind == "swin" and size["width"] == arch.width]
    high, wide = arch.image_size
    sizes = {key: getattr(arch, key) for key in ("width", "depths", "heads", "window", "patch_size", "channels")}
    model = {"name": same[0] if same else "swin_c96", "image_size": high if high == wide else [high, wide]}
    model |= {key: list(value) if isinstance(value, tuple) else value for key, value in sizes.items()}
    return model | {"dtype": "float32"}  # of evaluations and predictions: what the weights were compared in


def config_of(arch: SwinArch) -> dict[str, Any]:
    """The `model` and `objective` sections, as a run's config would have them."""
    objective = None
    if arch.classes:
        objective = {"name": "classify", "pool": arch.pool, "classes": arch.classes}
    elif arch.decoder:
        objective = {"name": "simmim", "head": arch.decoder, "mask_ratio": 0.6, "mask_unit": 32, "norm_pix": False}
    return {"model": section(arch), "objective": objective}
