"""Parameters to and from torch's names and axes: dict in, dict out, numpy only."""

from collections.abc import Iterable, Mapping

import numpy as np

from lvit_jax.convert.arch import Arch, shapes
from lvit_jax.convert.names import Row, move_to_jax, move_to_torch, rows
from lvit_jax.errors import InputError
from lvit_jax.models.positions import FIXED, sincos_2d
from lvit_jax.tree import flatten, matches, unflatten

TABLES = ("encoder/pos_embed", "decoder/pos_embed")
# What a file may hold beside the model: a pooler and a mask token that no classifier reads, the 13th block of D²-MAE
# (only norm1 and qkv, made for distillation), buffers of training.
_SPARE = (r"(vit\.)?pooler\.dense\.\w+", r"vit\.embeddings\.mask_token", r"blocks\.\d+\.(norm1|attn\.qkv)\.\w+")


def to_torch(params: Mapping, arch: Arch, layout: str) -> dict[str, np.ndarray]:
    """A tree of parameters as torch tensors (numpy, float32), position tables written out.

    Args:
      params: {"encoder": …, "decoder": …, "head": …}; what `arch` does not have is left out.
      arch: sizes; `arch.depth` blocks are written (fewer than there are where a D²-MAE run goes with its decoder).
      layout: 'mae' (also timm's) or 'hf'.

    Raises:
      InputError: a parameter that is missing or has another shape.
    """
    return write_rows(tables(arch) | flatten(params), _rows(arch, layout), shapes(arch))


def write_rows(
    flat: Mapping[str, np.ndarray], table: Iterable[Row], expected: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """The torch tensors (numpy, float32) of a table's rows.

    Args:
      flat: parameters by jax name; what no row has is left out.
      expected: the shape of each row's parameter.

    Raises:
      InputError: a parameter that is missing or has another shape.
    """
    weights = {}
    for row in table:
        if row.jax not in flat:
            raise InputError(f"the run has no parameter {row.jax!r}")
        array = np.asarray(flat[row.jax], np.float32)
        if array.shape != expected[row.jax]:
            raise InputError(f"{row.jax} has shape {array.shape}, its config says {expected[row.jax]}")
        for name, part in zip(row.torch, np.split(array, len(row.torch), axis=-1), strict=True):
            weights[name] = move_to_torch(part, row.move)
    return weights


def from_torch(weights: Mapping[str, np.ndarray], arch: Arch, layout: str, where: str) -> tuple[dict, Arch]:
    """Torch tensors as a tree of parameters (float32): every tensor is used, every parameter is filled.

    A position table equal to a sin-cos one within 1e-6 is not stored, since our models compute it.

    Returns:
      the tree, and `arch` with `positions` (and the decoder's) as found.

    Raises:
      InputError: names the first missing or unknown tensor, or the first of another shape, with both shapes.
    """
    table, expected = _rows(arch, layout), shapes(arch)
    known = {name for row in table for name in row.torch}
    for name in weights:
        if name not in known and not _spare(name, arch):
            raise InputError(f"{where} has a tensor {name!r} that a plain ViT of {_describe(arch)} has no place for")
    flat = {row.jax: read_row(weights, row, expected[row.jax], where) for row in table}
    layouts = [name for name in FIXED if _equal(flat[TABLES[0]], tables(arch._replace(positions=name))[TABLES[0]])]
    arch = arch._replace(positions=layouts[0] if layouts else "learned")
    if arch.decoder and not _equal(flat[TABLES[1]], tables(arch)[TABLES[1]]):
        arch = arch._replace(decoder=arch.decoder | {"positions": "learned"})
    learned = dict(zip(TABLES, (arch.positions, (arch.decoder or {}).get("positions")), strict=True))
    kept = {name: leaf for name, leaf in flat.items() if learned.get(name, "learned") == "learned"}
    return unflatten(kept), arch


def _equal(table: np.ndarray, fixed: np.ndarray) -> bool:
    return bool(np.abs(table - fixed).max() <= 1e-6)


def tables(arch: Arch) -> dict[str, np.ndarray]:
    """The sin-cos position tables [1,1+N,D] that our models compute and files hold, by jax name."""
    made = {TABLES[0]: FIXED.get(arch.positions, sincos_2d)(arch.width, arch.grid)[None]}
    if arch.decoder:
        made[TABLES[1]] = sincos_2d(arch.decoder["width"], arch.grid)[None]
    return made


def _rows(arch: Arch, layout: str) -> list[Row]:
    depth = arch.decoder["depth"] if arch.decoder else 0
    return rows(layout, depth=arch.depth, decoder_depth=depth, head=arch.pool)


def _spare(name: str, arch: Arch) -> bool:
    block = int(name.split(".")[1]) if name.startswith("blocks.") else None
    return matches(_SPARE, name) and (block is None or block >= arch.depth)


def read_row(weights: Mapping[str, np.ndarray], row: Row, shape: tuple[int, ...], where: str) -> np.ndarray:
    """The jax array of one row of the table, of this shape.

    Raises:
      InputError: a tensor that is missing or has another shape.
    """
    parts = []
    for name in row.torch:
        if name not in weights:
            raise InputError(f"{where} has no tensor {name!r}")
        part = np.asarray(weights[name], np.float32)
        wanted = move_to_torch(np.empty((*shape[:-1], shape[-1] // len(row.torch)), np.bool_), row.move).shape
        if part.shape != wanted:
            raise InputError(f"{where}: {name} has shape {part.shape}, but the model's is {wanted}")
        parts.append(move_to_jax(part, row.move))
    return np.concatenate(parts, axis=-1)


def _describe(arch: Arch) -> str:
    return f"width {arch.width}, depth {arch.depth}"
