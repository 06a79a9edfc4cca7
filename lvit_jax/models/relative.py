"""Relative positions with a CLS token (BEiT): the index of each pair of tokens, and tables for other grids."""

import numpy as np

from lvit_jax.errors import InputError

SPECIAL = 3  # rows of CLS -> patch, patch -> CLS, CLS -> CLS, after those of the offsets


def table_rows(grid: tuple[int, int]) -> int:
    """Rows of a table: one per offset between two patches of a (rows, columns) grid, and the three of CLS."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + SPECIAL


def relative_index(grid: tuple[int, int]) -> np.ndarray:
    """The row of the table for each pair (query, key) of tokens, CLS first: int32 [1+N, 1+N] (recipes 1.2).

    Patches i, j: (Δy + R-1)·(2C-1) + (Δx + C-1) with Δ = place of i - place of j on a grid of R rows, C columns.
    """
    rows, columns = grid
    places = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1).reshape(-1, 2)
    offsets = places[:, None] - places[None, :] + (rows - 1, columns - 1)  # [N,N,2], from 0
    index = np.full((1 + len(places),) * 2, table_rows(grid) - SPECIAL, np.int32)
    index[1:, 1:] = offsets[..., 0] * (2 * columns - 1) + offsets[..., 1]
    index[1:, 0] += 1
    index[0, 0] += 2
    return index


def resample_bias(table: np.ndarray, grid: tuple[int, int], source_grid: tuple[int, int]) -> np.ndarray:
    """A table for another grid, by BEiT's geometric interpolation (recipes 1.2).

    Offset 0 and ±1 keep their values, the outermost ones stay outermost, and the distances between are those of a
    geometric series, so that near offsets keep their meaning; a bicubic spline reads the values at whole offsets.
    A smaller grid keeps the offsets that it has. The rows of CLS stay as they are.

    Args:
      table: [source rows, H].
      grid: the wanted (rows, columns).
      source_grid: the (rows, columns) that the table is for.

    Returns:
      float32 [table_rows(grid), H].

    Raises:
      InputError: a table whose length is not that of `source_grid`.
    """
    table = np.asarray(table, np.float32)
    if len(table) != table_rows(source_grid):
        rows, columns = source_grid
        raise InputError(f"a bias table of {len(table)} rows is not that of a {rows}x{columns} grid")
    if tuple(grid) == tuple(source_grid):
        return table
    from scipy.interpolate import RectBivariateSpline  # jax requires scipy; its import takes a third of a second

    ys, xs = (_places(ours, theirs) for ours, theirs in zip(source_grid, grid, strict=True))
    wanted = [np.arange(1 - side, side, dtype=np.float64) for side in grid]
    order = {"kx": min(3, len(ys) - 1), "ky": min(3, len(xs) - 1)}
    if not all(order.values()):
        raise InputError(f"a bias table of a {source_grid[0]}x{source_grid[1]} grid cannot be resampled; nearest: 2x2")
    maps = table[:-SPECIAL].reshape(len(ys), len(xs), -1).transpose(2, 0, 1)
    resampled = [RectBivariateSpline(ys, xs, values, **order)(*wanted).ravel() for values in maps]
    return np.concatenate([np.stack(resampled, axis=-1), table[-SPECIAL:]]).astype(np.float32)


def _places(source: int, target: int) -> np.ndarray:
    """float64 [2·source-1]: where the offsets of a side of `source` patches lie among those of `target` patches."""
    ratio = _ratio(source - 1, target - 1)
    distances = np.cumsum(ratio ** np.arange(source - 1))
    return np.concatenate([-distances[::-1], [0.0], distances])


def _ratio(terms: int, total: float) -> float:
    """q ≥ 1 for which 1 + q + … + q^(terms-1) is `total`; 1 where even that is more, or where q plays no part."""
    if terms < 2 or total <= terms:
        return 1.0
    low, high = 1.0, float(total)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if np.sum(middle ** np.arange(terms)) > total else (middle, high)
    return low
