"""Hiera (arXiv:2306.00989; facebookresearch/hiera hiera.py; recipes 1.4): a hierarchical ViT that can skip mask units.

Tokens run unit by unit, and within a mask unit by levels of 2x2, the finest first: pooling is then a maximum over a
leading axis of four, whatever units are there. (The reference has the units last; the numbers are the same.)
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lvit_jax.errors import InputError
from lvit_jax.models.features import Features
from lvit_jax.models.hiera_layers import Fusion, HieraBlock, OverlappingEmbed, roll, to_grid, unroll
from lvit_jax.models.layers import LayerNorm, drop_path_rates, take
from lvit_jax.models.sizes import check_divides, size_of

LOCAL_STAGES = 2  # attention within mask units in the first two stages, over all tokens in the others


class Hiera(nn.Module):
    """A Hiera without CLS token: images of any size that its mask units divide -> Features of the last stage."""

    first_width: int
    depths: tuple[int, ...]  # blocks per stage
    first_heads: int = 1
    patch_kernel: int = 7
    patch_stride: int = 4
    patch_padding: int = 3
    mask_unit: int = 8  # side of a mask unit in tokens of the first stage, a power of two
    q_pool: int = 3  # 2x2 poolings, each at the start of a stage: 2 in pre-training, 3 in classification
    channels: int = 3
    drop_path: float = 0.0  # of the last block; rises linearly from 0 in the first
    remat: bool = False  # recompute each block in the backward pass
    dtype: str = "bfloat16"  # of the computation; parameters are float32
    final_norm: bool = True  # multi-scale fusion and norm: of pre-training and teachers; classifiers norm in their head
    norm_eps: float = 1e-6

    prefix = 0  # no CLS row in the position table

    @property
    def depth(self) -> int:
        """Blocks of all stages."""
        return sum(self.depths)

    @property
    def width(self) -> int:
        """D of the last stage."""
        return self.first_width * 2 ** (len(self.depths) - 1)

    @property
    def heads(self) -> int:
        """Heads of the last stage."""
        return self.first_heads * 2 ** (len(self.depths) - 1)

    @property
    def patch_size(self) -> int:
        """Side in pixels of what one final token stands for: 16 in pre-training, the patch that is reconstructed."""
        return self.patch_stride * 2**self.q_pool

    @property
    def mask_size(self) -> int:
        """Side of a mask unit in pixels."""
        return self.patch_stride * self.mask_unit

    def mask_grid(self, images: jax.Array) -> tuple[int, int]:
        """(rows, columns) of mask units in images [B,H,W,C].

        Raises:
          InputError: a side is no multiple of a mask unit.
        """
        size = self.mask_size
        for side in images.shape[1:3]:
            if side % size:
                near = max(1, round(side / size)) * size
                raise InputError(f"an image side of {side} is no multiple of the mask unit of {size}; nearest: {near}")
        return images.shape[1] // size, images.shape[2] // size

    def position_grid(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of the position table for images of this size."""
        return height // self.patch_stride, width // self.patch_stride

    @nn.compact
    def __call__(self, images: jax.Array, keep: jax.Array | None = None, *, train: bool = False) -> Features:
        """Encodes images, or only some mask units of each.

        Args:
          images: float [B,H,W,C], normalised.
          keep: int32 [B,K], the mask units to encode, in this order; all where None.
          train: draw drop-path from the rng collection "dropout".

        Returns:
          Features whose tokens are row-major over the grid, or [B,K·n,D] unit by unit where `keep` says which; the
          streams of its blocks always run unit by unit.

        Raises:
          InputError: image sides that mask units do not divide, or another number of channels.
        """
        dtype, grid = jnp.dtype(self.dtype), self.mask_grid(images)
        x = self._embed(images, keep, grid).astype(dtype)
        units, blocks, ends = x.shape[1], [], list(np.cumsum(self.depths) - 1)
        x = x.reshape(len(x), -1, self.first_width)
        for block in self._blocks():
            blocks.append(block(x, units, train))
            x = blocks[-1].x
        if self.final_norm:
            stages = [blocks[end].x for end in ends[: self.q_pool]]
            x = LayerNorm(dtype, self.norm_eps, name="norm")(Fusion(dtype, name="fusion")(stages, x, units))
        side = self.mask_unit // 2**self.q_pool
        if keep is None:
            x = to_grid(roll(x.reshape(len(x), units, side * side, -1)), grid)
        return Features(tokens=x, blocks=tuple(blocks), grid=(grid[0] * side, grid[1] * side), prefix=0)

    def _embed(self, images: jax.Array, keep: jax.Array | None, grid: tuple[int, int]) -> jax.Array:
        """[B,H,W,C] -> [B,U or K,n,D] with positions. Pixels of removed units are zero before kernels overlap them."""
        rows, columns = self.position_grid(*images.shape[1:3])
        if keep is not None:
            visible = jax.nn.one_hot(keep, grid[0] * grid[1], dtype=images.dtype).sum(axis=1)
            pixels = visible.reshape(-1, *grid, 1).repeat(self.mask_size, axis=1).repeat(self.mask_size, axis=2)
            images = images * pixels
        embed = OverlappingEmbed(
            self.first_width,
            self.patch_kernel,
            self.patch_stride,
            self.patch_padding,
            self.channels,
            jnp.dtype(self.dtype),
            name="patch_embed",
        )
        table = self.param("pos_embed", nn.initializers.normal(0.02), (1, rows * columns, self.first_width))
        x = embed(images) + table.reshape(1, rows, columns, -1)
        x = unroll(x, self.mask_unit)
        if keep is None:
            return x
        return take(x.reshape(*x.shape[:2], -1), keep).reshape(len(x), -1, *x.shape[2:])

    def _blocks(self) -> list[HieraBlock]:
        """block_0, block_1, …; the first of a stage changes width and heads, and pools at `q_pool` stages."""
        make = nn.remat(HieraBlock, static_argnums=(2, 3)) if self.remat else HieraBlock
        rates = iter(drop_path_rates(self.drop_path, self.depth))
        made = []
        for stage, depth in enumerate(self.depths):
            for j in range(depth):
                lag = stage == LOCAL_STAGES and j == 0  # the switch to global attention lags by one block
                made.append(
                    make(
                        width=self.first_width * 2**stage,
                        heads=self.first_heads * 2**stage,
                        pool=j == 0 and 0 < stage <= self.q_pool,
                        local=stage < LOCAL_STAGES or lag,
                        drop_path=next(rates),
                        dtype=jnp.dtype(self.dtype),
                        norm_eps=self.norm_eps,
                        name=f"block_{len(made)}",
                    )
                )
        return made


def hiera(
    name: str,
    *,
    channels: int = 3,
    first_width: int | None = None,
    depths: tuple[int, ...] | None = None,
    first_heads: int | None = None,
    patch_kernel: int = 7,
    patch_stride: int = 4,
    patch_padding: int = 3,
    mask_unit: int = 8,
    q_pool: int = 3,
    drop_path: float = 0.0,
    remat: bool = False,
    dtype: str = "bfloat16",
    norm_eps: float = 1e-6,
) -> Hiera:
    """The config's `model` section -> encoder.

    Args:
      name: a size of `models.ENCODERS`; first_width, depths and first_heads override it.
      channels: of the images.
      patch_kernel, patch_stride, patch_padding: of the overlapping patch embedding, in pixels.
      mask_unit: side of a mask unit in tokens, a power of two.
      q_pool: stages that start with a pooling: 2 in pre-training, 3 in classification (it has no parameters).
      drop_path: rate of the last block.
      remat: recompute blocks in the backward pass.
      dtype: of the computation, "bfloat16" or "float32".
      norm_eps: ε of every LayerNorm.

    Raises:
      InputError: an unknown name, or numbers that make no hierarchy.
    """
    size = size_of(name, dtype, "hiera")
    stated = {"first_width": first_width, "depths": depths, "first_heads": first_heads}
    size |= {key: value for key, value in stated.items() if value is not None}
    size["depths"] = tuple(size["depths"])
    _check(size, patch_kernel, patch_stride, patch_padding, mask_unit, q_pool)
    return Hiera(
        **size,
        patch_kernel=patch_kernel,
        patch_stride=patch_stride,
        patch_padding=patch_padding,
        mask_unit=mask_unit,
        q_pool=q_pool,
        channels=channels,
        drop_path=drop_path,
        remat=remat,
        dtype=dtype,
        norm_eps=norm_eps,
    )


def _check(size: dict, kernel: int, stride: int, padding: int, mask_unit: int, q_pool: int) -> None:
    check_divides("first_width", size["first_width"], "first_heads", size["first_heads"])
    if mask_unit < 1 or mask_unit & (mask_unit - 1):
        near = 2 ** max(0, round(float(np.log2(max(mask_unit, 1)))))
        raise InputError(f"mask_unit={mask_unit} is no power of two; nearest: {near}")
    most = min(len(size["depths"]) - 1, mask_unit.bit_length() - 1)
    if not 0 <= q_pool <= most:
        stages = len(size["depths"])
        raise InputError(
            f"q_pool={q_pool}: {stages} stages and mask units of {mask_unit}x{mask_unit} allow 0 to {most}"
        )
    if not kernel - stride <= 2 * padding < kernel:  # then a side of n·stride pixels gives n tokens
        near = max(0, kernel - 1) // 2
        raise InputError(
            f"patch_padding={padding} with a kernel of {kernel} and a stride of {stride} does not give one token "
            f"per stride; nearest: {near}"
        )
