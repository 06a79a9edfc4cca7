"""ViTs with relative positions to and from BEiT's names: MAE-Lite's RPE files and timm's `beit_*`."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lvit_jax.convert.arch import NORM_EPS
from lvit_jax.convert.names import Row, rows
from lvit_jax.convert.params import read_row, write_rows
from lvit_jax.errors import InputError
from lvit_jax.models import ENCODERS
from lvit_jax.models.positions import sincos_2d
from lvit_jax.models.relative import SPECIAL
from lvit_jax.tree import flatten, unflatten

TABLE = "relative_position_bias_table"
SHARED = f"rel_pos_bias.{TABLE}"
POSITIONS = "encoder/pos_embed"
# What may be in a file beside the model: the index that the grid implies, BEiT's mask token and its head of visual
# tokens, and the bias of keys, which softmax ignores.
_SPARE = r".*relative_position_index|mask_token|lm_head\..*|blocks\.\d+\.attn\.k_bias"


class RelativeArch(NamedTuple):
    """A ViT with relative positions, perhaps with a classifier."""

    width: int
    depth: int
    heads: int
    patch_size: int
    channels: int
    image_size: tuple[int, int]
    positions: str  # learned | sincos | none
    qv_bias: bool
    layer_scale: float | None  # a first value where the file has LayerScale; the file's values replace it
    shared_table: bool
    pool: str | None = None  # mean | cls: the classifier's
    classes: int | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def decoder(self) -> None:
        """None: these models see all patches, and none was pre-trained with a decoder."""
        return None

    @property
    def norm_eps(self) -> float:
        """Of every norm: neither layout can state another."""
        return NORM_EPS


def is_relative(weights: Mapping[str, np.ndarray]) -> bool:
    """Whether tensors under the names of `names.rows` have tables of relative positions."""
    return any(name.endswith(TABLE) for name in weights)


def infer(weights: Mapping[str, np.ndarray], stated: Mapping[str, Any], where: str) -> RelativeArch:
    """The sizes, from the shapes: a table has a column per head, and two sides of offsets per grid.

    Raises:
      InputError: a tensor that every such model has is missing, another head count is stated, or the tables are for
        no square grid and none is stated.
    """
    for name in ("patch_embed.proj.weight", "cls_token"):
        if name not in weights:
            raise InputError(f"{where} has no tensor {name!r}")
    width, channels, patch_size = weights["patch_embed.proj.weight"].shape[:3]
    table = next(array for name, array in weights.items() if name.endswith(TABLE))
    if stated.get("heads") not in (None, table.shape[1]):
        raise InputError(
            f"--heads={stated['heads']}, but the tables of {where} have {table.shape[1]} columns, one a head"
        )
    mean = "fc_norm.weight" in weights
    arch = RelativeArch(
        width=width,
        depth=1 + max(int(m[1]) for m in (re.match(r"blocks\.(\d+)\.", name) for name in weights) if m),
        heads=table.shape[1],
        patch_size=patch_size,
        channels=channels,
        image_size=_image_size(len(table), patch_size, stated.get("image_size"), where),
        positions="learned" if "pos_embed" in weights else "none",
        qv_bias="blocks.0.attn.q_bias" in weights,
        layer_scale=0.1 if "blocks.0.gamma_1" in weights else None,
        shared_table=SHARED in weights,
        pool=("mean" if mean else "cls") if "head.weight" in weights else None,
        classes=len(weights["head.weight"]) if "head.weight" in weights else None,
    )
    fixed = "pos_embed" in weights and _fixed(weights["pos_embed"], arch)
    return arch._replace(positions="sincos") if fixed else arch


def _fixed(table: np.ndarray, arch: RelativeArch) -> bool:
    """Whether a position table is the sin-cos one, which our models compute and do not store."""
    fixed = sincos_2d(arch.width, arch.grid)[None]
    return table.shape == fixed.shape and bool(np.abs(table - fixed).max() <= 1e-6)


def _image_size(table: int, patch_size: int, stated: Any, where: str) -> tuple[int, int]:
    side = (round((table - SPECIAL) ** 0.5) + 1) // 2
    size = (side * patch_size,) * 2 if stated is None else (stated if isinstance(stated, int) else tuple(stated))
    size = (size, size) if isinstance(size, int) else size
    offsets = [2 * (length // patch_size) - 1 for length in size]
    if offsets[0] * offsets[1] + SPECIAL != table:
        asked = f"{size[0]}x{size[1]} with patch {patch_size} needs {offsets[0] * offsets[1] + SPECIAL}"
        raise InputError(f"{where} has tables of {table} rows; {asked}: say --image-size=HEIGHTxWIDTH")
    return size


def from_torch(weights: Mapping[str, np.ndarray], arch: RelativeArch, where: str) -> dict:
    """Tensors as {"encoder": …, "head": …}: every tensor is used, every parameter is filled.

    Raises:
      InputError: names the first tensor that is missing, has another shape, or has no place.
    """
    table, expected = _rows(arch), _shapes(arch)
    known = {name for row in table for name in row.torch}
    for name in weights:
        if name not in known and not re.fullmatch(_SPARE, name):
            raise InputError(f"{where} has a tensor {name!r} that a ViT with relative positions has no place for")
    flat = {row.jax: read_row(weights, row, expected[row.jax], where) for row in table}
    return unflatten({name: leaf for name, leaf in flat.items() if name != POSITIONS or arch.positions == "learned"})


def to_torch(params: Mapping, arch: RelativeArch) -> dict[str, np.ndarray]:
    """A tree of parameters as torch tensors (numpy, float32), a fixed position table written out.

    Raises:
      InputError: a parameter that is missing or has another shape.
    """
    fixed = {POSITIONS: sincos_2d(arch.width, arch.grid)[None]} if arch.positions == "sincos" else {}
    return write_rows(fixed | flatten(params), _rows(arch), _shapes(arch))


def model_section(arch: RelativeArch) -> dict[str, Any]:
    """The `model` section of a config that describes it."""
    same = [name for name, (kind, size) in ENCODERS.items() if kind == "vit_rpe" and size["width"] == arch.width]
    side = arch.image_size[0] if arch.image_size[0] == arch.image_size[1] else list(arch.image_size)
    sizes = {key: value for key, value in arch._asdict().items() if key not in ("pool", "classes", "image_size")}
    return {"name": same[0] if same else "vit_base_rpe", "image_size": side, **sizes, "dtype": "float32"}


def _rows(arch: RelativeArch) -> list[Row]:
    """The rows of a plain ViT, less those that this one lacks, and its own."""
    lacks = rf"{POSITIONS if arch.positions == 'none' else ''}|{'.*/qkv/bias' if arch.qv_bias else ''}"
    made = [row for row in rows("mae", depth=arch.depth, head=arch.pool) if not re.fullmatch(lacks, row.jax)]
    own = ["attn/q_bias", "attn/v_bias"] if arch.qv_bias else []
    own += ["gamma_1", "gamma_2"] if arch.layer_scale is not None else []
    own += [] if arch.shared_table else [f"attn/{TABLE}"]
    for i in range(arch.depth):
        made += [Row(f"encoder/block_{i}/{name}", (f"blocks.{i}.{name.replace('/', '.')}",), "same") for name in own]
    return [*made, Row(f"encoder/{TABLE}", (SHARED,), "same")] if arch.shared_table else made


def model_of(arch: RelativeArch) -> Any:
    """The classifier or the bare encoder of these sizes, in float32."""
    from lvit_jax.models.heads import classifier  # jax: seconds, which a wrong file name need not cost
    from lvit_jax.models.vit_rpe import vit_rpe

    encoder = vit_rpe(**{key: value for key, value in model_section(arch).items() if key != "image_size"})
    return classifier(encoder, arch.classes, arch.pool) if arch.pool else encoder


def _shapes(arch: RelativeArch) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter, by its name; the position table included, stored or not."""
    import jax

    images = np.zeros((1, *arch.image_size, arch.channels), np.float32)
    made = jax.eval_shape(model_of(arch).init, jax.random.key(0), images)["params"]
    table = {POSITIONS: (1, 1 + arch.grid[0] * arch.grid[1], arch.width)}
    return table | {name: leaf.shape for name, leaf in flatten(made if arch.pool else {"encoder": made}).items()}
