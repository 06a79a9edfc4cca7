"""Where the queries and keys of every block lie in the image, and which of them a shifted window keeps apart.

Shapes: W windows, M queries, N keys (both without CLS), as in `models.features`; places are centres, in pixels.
"""

from typing import NamedTuple

import flax.linen as nn
import numpy as np

from lvit_jax.models.features import Features
from lvit_jax.models.hiera import Hiera
from lvit_jax.models.hiera_layers import unroll
from lvit_jax.models.swin import Swin, effective_window, shift_mask


class Places(NamedTuple):
    """Of one block."""

    queries: np.ndarray  # [W,M,2], (y, x)
    keys: np.ndarray  # [W,N,2]
    mask: np.ndarray | None = None  # [W,M,N], added to the logits: -100 across the seam of a cyclic shift

    @property
    def distances(self) -> np.ndarray:
        """[W,M,N] in pixels."""
        return np.linalg.norm(self.queries[:, :, None] - self.keys[:, None], axis=-1)


def places(encoder: nn.Module, features: Features) -> list[Places]:
    """The places of each block, by the kind of the encoder and the shapes of its features of whole images."""
    if isinstance(encoder, Swin):
        return _swin(encoder, features.grid)
    if isinstance(encoder, Hiera):
        return _hiera(encoder, features)
    patches = _centres(features.grid, encoder.patch_size).reshape(1, -1, 2)
    return [Places(patches, patches)] * len(features.blocks)


def _centres(grid: tuple[int, int], size: int) -> np.ndarray:
    """[rows,columns,2] for tokens that are `size` pixels apart."""
    rows, columns = ((np.arange(side) + 0.5) * size for side in grid)
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)


def _swin(encoder: Swin, last: tuple[int, int]) -> list[Places]:
    found = []
    for stage, depth in enumerate(encoder.depths):
        scale = 2 ** (len(encoder.depths) - 1 - stage)
        grid = last[0] * scale, last[1] * scale
        centres = _centres(grid, encoder.patch_size * 2**stage)
        for block in range(depth):
            window, shift = effective_window(encoder.window, block % 2 * (encoder.window // 2), grid)
            rows = np.roll(centres, (-shift, -shift), axis=(0, 1))
            rows = rows.reshape(grid[0] // window, window, grid[1] // window, window, 2).swapaxes(1, 2)
            windows = rows.reshape(-1, window**2, 2)
            found.append(Places(windows, windows, shift_mask(grid, window, shift) if shift else None))
    return found


def _hiera(encoder: Hiera, features: Features) -> list[Places]:
    """Keys in the order of the units; the place of a pooled query is the middle of its four."""
    side = encoder.mask_unit // 2**encoder.q_pool
    first = tuple(length // side * encoder.mask_unit for length in features.grid)
    centres = unroll(_centres(first, encoder.patch_stride)[None], encoder.mask_unit)[0]  # [U,n,2]
    found = []
    for block in features.blocks:
        windows, queries = block.q.shape[1:3]
        keys = centres.reshape(windows, -1, 2)
        if windows * queries < keys.shape[0] * keys.shape[1]:
            centres = centres.reshape(len(centres), 4, -1, 2).mean(axis=1)
        found.append(Places(centres.reshape(windows, -1, 2), keys))
    return found
