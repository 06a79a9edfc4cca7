"""Position embeddings: the sin-cos tables of MAE and MoCo-v3, and PyTorch's bicubic resampling of learned ones."""

import numpy as np

from lvit_jax.errors import InputError


def sincos_2d(width: int, grid: tuple[int, int]) -> np.ndarray:
    """The fixed table of MAE (pos_embed.py), row-major over the grid, with a zero row for CLS.

    The first half of the channels encodes the column, the second half the row ("x first": kept for compatibility
    with published weights); each half is [sin(pos·ω_i), cos(pos·ω_i)], ω_i = 10000^(-i/(D/4)).

    Args:
      width: D, a multiple of 4.
      grid: (rows, columns) of patches.

    Returns:
      float32 [1+N, D].

    Raises:
      InputError: D is no multiple of 4.
    """
    if width % 4:
        raise InputError(f"sin-cos positions need a width divisible by 4, not {width}; nearest: {width // 4 * 4 or 4}")
    rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    table = np.concatenate([_sincos(width // 2, columns.ravel()), _sincos(width // 2, rows.ravel())], axis=1)
    return np.concatenate([np.zeros((1, width)), table]).astype(np.float32)


def sincos_moco(width: int, grid: tuple[int, int]) -> np.ndarray:
    """The fixed table of MoCo-v3 (vits.py) and BootMAE: `sincos_2d` with its halves swapped, the row first (1.1)."""
    table = sincos_2d(width, grid)
    return np.concatenate([table[:, width // 2 :], table[:, : width // 2]], axis=1)


# The fixed tables by the config's `model.positions`; "learned" is the name of none of them.
FIXED = {"sincos": sincos_2d, "sincos_moco": sincos_moco}


def _sincos(width: int, positions: np.ndarray) -> np.ndarray:
    """float64 [N, width]: sines, then cosines."""
    frequencies = 10000.0 ** (-np.arange(width // 2) / (width // 2))
    angles = positions[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def resample(
    table: np.ndarray, grid: tuple[int, int], source_grid: tuple[int, int] | None = None, prefix: int = 1
) -> np.ndarray:
    """A learned table for another grid, as torch's `interpolate(mode="bicubic", align_corners=False)` does it.

    Args:
      table: [1, prefix+L, D]; the rows of the prefix are kept as they are.
      grid: the wanted (rows, columns).
      source_grid: the grid that L stands for; a square where None.
      prefix: 1 for CLS, 0 for hierarchical encoders.

    Returns:
      float32 [1, prefix+N, D].

    Raises:
      InputError: L is not the size of `source_grid`, or no square where that is None.
    """
    table = np.asarray(table, np.float32)
    length = table.shape[1] - prefix
    side = round(length**0.5)
    rows, columns = source_grid or (side, side)
    if rows * columns != length:
        raise InputError(f"a position table of {length} patches does not lie on a {rows}x{columns} grid")
    patches = table[0, prefix:].reshape(rows, columns, -1)
    patches = np.einsum(
        "hr,wc,rcd->hwd", _bicubic(rows, grid[0]), _bicubic(columns, grid[1]), patches, optimize=True
    ).reshape(1, grid[0] * grid[1], -1)
    return np.concatenate([table[:, :prefix], patches], axis=1).astype(np.float32)


def _bicubic(source: int, target: int, a: float = -0.75) -> np.ndarray:
    """[target, source] weights: Keys' kernel with PyTorch's a, no antialias, edges repeated."""
    if source == target:
        return np.eye(target)
    centres = (np.arange(target) + 0.5) * source / target - 0.5
    weights = np.zeros((target, source))
    for offset in (-1, 0, 1, 2):
        taps = np.floor(centres) + offset
        x = np.abs(centres - taps)
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
        columns = np.clip(taps, 0, source - 1).astype(int)
        np.add.at(weights, (np.arange(target), columns), np.where(x <= 1, near, far))
    return weights
