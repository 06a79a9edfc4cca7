"""Swin transformers (v1, arXiv:2103.14030; recipes 1.5): shifted windows, relative-position bias, patch merging.

Shapes: B batch, h x w grid, N = h·w tokens, D width, W windows of M = window² tokens, H heads.
"""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lvit_jax.errors import InputError, unknown
from lvit_jax.models import ENCODERS
from lvit_jax.models.features import BlockOut, Features, attend
from lvit_jax.models.layers import DropPath, LayerNorm, Linear, Mlp, PatchEmbed, drop_path_rates, grid_of
from lvit_jax.models.ops import linear
from lvit_jax.models.vit import DTYPES

Grid = tuple[int, int]
TABLE_STD = 0.02  # of the bias tables and the mask token


def effective_window(window: int, shift: int, grid: Grid) -> tuple[int, int]:
    """(window, shift) on a grid: one that is no larger than the window is one window, or one row of them.

    Raises:
      InputError: a larger grid that the window does not divide.
    """
    if min(grid) <= window:
        window, shift = min(grid), 0
    if grid[0] % window or grid[1] % window:
        valid = [w for w in range(1, min(grid) + 1) if grid[0] % w == 0 and grid[1] % w == 0]
        near = min(valid, key=lambda w: abs(w - window))
        raise InputError(f"a {grid[0]}x{grid[1]} grid does not divide into windows of {window}; nearest window: {near}")
    return window, shift


def split_windows(x: jax.Array, grid: Grid, window: int, shift: int = 0) -> jax.Array:
    """[B,N,D] -> [B,W,M,D] after a cyclic shift up and left; windows and the tokens in them row by row."""
    x = x.reshape(len(x), *grid, x.shape[-1])
    x = jnp.roll(x, (-shift, -shift), axis=(1, 2)) if shift else x
    x = x.reshape(len(x), grid[0] // window, window, grid[1] // window, window, x.shape[-1]).swapaxes(2, 3)
    return x.reshape(len(x), -1, window**2, x.shape[-1])


def join_windows(x: jax.Array, grid: Grid, window: int, shift: int = 0) -> jax.Array:
    """The inverse of `split_windows`: [B,W,M,D] -> [B,N,D]."""
    x = x.reshape(len(x), grid[0] // window, grid[1] // window, window, window, x.shape[-1]).swapaxes(2, 3)
    x = x.reshape(len(x), *grid, x.shape[-1])
    x = jnp.roll(x, (shift, shift), axis=(1, 2)) if shift else x
    return x.reshape(len(x), -1, x.shape[-1])


def relative_index(window: int) -> np.ndarray:
    """int [M,M]: row (Δy + w-1)·(2w-1) + (Δx + w-1) of the bias table, Δ the place of query i less that of key j."""
    places = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing="ij")).reshape(2, -1)
    delta = places[:, :, None] - places[:, None, :] + window - 1
    return delta[0] * (2 * window - 1) + delta[1]


def shift_mask(grid: Grid, window: int, shift: int) -> np.ndarray:
    """float32 [W,M,M], -100 between tokens that only the cyclic shift has brought into one window."""
    regions = [np.digitize(np.arange(side), (side - window, side - shift)) for side in grid]
    region = (3 * regions[0][:, None] + regions[1]).reshape(1, -1, 1)
    ids = np.asarray(split_windows(region, grid, window))[0, :, :, 0]
    return np.where(ids[:, :, None] == ids[:, None, :], 0.0, -100.0).astype(np.float32)


class WindowAttention(nn.Module):
    """Self-attention within windows, with a relative-position bias; `partial` keeps qkv and the bias only."""

    heads: int
    window: int
    shift: int
    dtype: jnp.dtype
    partial: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, normed: jax.Array, grid: Grid) -> BlockOut:
        """x (residual stream) and normed [B,N,D] -> BlockOut of this attention; q, k, v in the order of windows."""
        d = normed.shape[-1]
        window, shift = effective_window(self.window, self.shift, grid)
        windows = split_windows(normed, grid, window, shift)
        qkv = Linear(3 * d, self.dtype, name="qkv")(windows)
        qkv = qkv.reshape(*windows.shape[:3], 3, self.heads, d // self.heads)
        q, k, v = qkv[:, :, :, 0], qkv[:, :, :, 1], qkv[:, :, :, 2]  # [B,W,M,H,K]
        table = self.param("bias_table", nn.initializers.normal(TABLE_STD), ((2 * window - 1) ** 2, self.heads))
        bias = jnp.moveaxis(table[relative_index(window)], -1, 0)
        out = BlockOut(x=x, normed=normed, attn=None, mlp=None, q=q, k=k, v=v, bias=bias)
        if self.partial:
            return out
        mixed = attend(out, shift_mask(grid, window, shift) if shift else None).reshape(windows.shape)
        return out.replace(attn=join_windows(Linear(d, self.dtype, name="proj")(mixed), grid, window, shift))


class SwinBlock(nn.Module):
    """A pre-norm block of window attention. `partial`: only norm1, attn/qkv and attn/bias_table exist."""

    heads: int
    window: int
    shift: int
    drop_path: float
    dtype: jnp.dtype
    partial: bool = False
    norm_eps: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, grid: Grid, train: bool) -> BlockOut:
        """[B,N,D] on a grid -> BlockOut."""
        normed = LayerNorm(self.dtype, self.norm_eps, name="norm1")(x)
        attention = WindowAttention(self.heads, self.window, self.shift, self.dtype, self.partial, name="attn")
        out = attention(x, normed, grid)
        if self.partial:
            return out
        x = x + DropPath(self.drop_path)(out.attn, train)
        mlp = Mlp(self.dtype, name="mlp")(LayerNorm(self.dtype, self.norm_eps, name="norm2")(x))
        return out.replace(x=x + DropPath(self.drop_path)(mlp, train), middle=x, mlp=mlp)


class PatchMerging(nn.Module):
    """Squares of 2x2 tokens, column by column, side by side; LN; a Linear without bias to twice the width."""

    dtype: jnp.dtype
    norm_eps: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, grid: Grid) -> jax.Array:
        """[B,N,D] -> [B,N/4,2D]."""
        b, _, d = x.shape
        x = x.reshape(b, grid[0] // 2, 2, grid[1] // 2, 2, d).transpose(0, 1, 3, 4, 2, 5).reshape(b, -1, 4 * d)
        x = LayerNorm(self.dtype, self.norm_eps, name="norm")(x)
        kernel = self.param("kernel", nn.initializers.xavier_uniform(), (4 * d, 2 * d)).astype(self.dtype)
        return linear(x.reshape(-1, 4 * d), kernel).reshape(b, -1, 2 * d)


class Swin(nn.Module):
    """A Swin transformer without CLS: images -> Features of the last stage, and what each stage hands on.

    Blocks are numbered through the stages; `merge_{i}` follows `block_{i}` and learns at its rate under layer decay.
    """

    width: int  # of the first stage; each merging doubles it
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int = 7
    patch_size: int = 4
    channels: int = 3
    drop_path: float = 0.0  # of the last block; rises linearly from 0 in the first
    remat: bool = False
    dtype: str = "bfloat16"
    final_norm: bool = True
    norm_eps: float = 1e-5

    @property
    def depth(self) -> int:
        """Blocks of all stages."""
        return sum(self.depths)

    def position_grid(self, height: int, width: int) -> tuple[int, int]:
        """Raises InputError: a Swin's tables are for its windows, not for a grid, and are not resized."""
        raise InputError(
            f"relative positions of Swins are for one window size and are not resized; this model's is {self.window}, "
            "set --config.model.window to that of the weights"
        )

    @nn.compact
    def __call__(self, images: jax.Array, *, mask: jax.Array | None = None, train: bool = False) -> Features:
        """Encodes images, perhaps with some patches hidden.

        Args:
          images: float [B,H,W,C], normalised.
          mask: float [B,N] over the patches, 1 = the patch's embedding gives way to the mask token (SimMIM).
          train: draw drop-path from the rng collection "dropout".

        Raises:
          InputError: image sides that patches, windows and mergings do not divide, or another number of channels.
        """
        check_size(self, images)
        dtype, grid = jnp.dtype(self.dtype), grid_of(images, self.patch_size)
        x = PatchEmbed(self.width, self.patch_size, self.channels, dtype, name="patch_embed")(images)
        x = LayerNorm(dtype, self.norm_eps, name="patch_norm")(x)
        if mask is not None:
            token = self.param("mask_token", nn.initializers.normal(TABLE_STD), (1, 1, self.width))
            x = jnp.where(mask[:, :, None] > 0, token.astype(dtype), x)
        make = nn.remat(SwinBlock, static_argnums=(2, 3)) if self.remat else SwinBlock
        rates, blocks, stages = drop_path_rates(self.drop_path, self.depth), [], []
        for stage, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True)):
            for i in range(depth):
                shift, number = i % 2 * (self.window // 2), len(blocks)
                block = make(
                    heads, self.window, shift, rates[number], dtype, norm_eps=self.norm_eps, name=f"block_{number}"
                )
                blocks.append(block(x, grid, train))
                x = blocks[-1].x
            if stage + 1 < len(self.depths):
                x = PatchMerging(dtype, self.norm_eps, name=f"merge_{len(blocks) - 1}")(x, grid)
                grid = grid[0] // 2, grid[1] // 2
            stages.append(x)
        tokens = LayerNorm(dtype, self.norm_eps, name="norm")(x) if self.final_norm else x
        return Features(tokens=tokens, blocks=tuple(blocks), grid=grid, prefix=0, stages=tuple(stages))


def last_stage_probe(encoder: Swin, shift: int) -> SwinBlock:
    """One more, partial block after the last (recipes 4.5): norm1, qkv and bias table, of which the logits are used."""
    eps = encoder.norm_eps
    return SwinBlock(encoder.heads[-1], encoder.window, shift, 0.0, jnp.dtype(encoder.dtype), True, eps)


def check_size(encoder: Swin, images: jax.Array) -> None:
    """One line for images [B,H,W,C] that the hierarchy does not divide, with the nearest size that it does."""
    size, unit = images.shape[1:3], encoder.patch_size * 2 ** (len(encoder.depths) - 1)
    if _fits(encoder, size):
        return
    # Windows repeat after `window` units, so one that fits is among these.
    sides = [[k * unit for k in range(1, side // unit + encoder.window + 2)] for side in size]
    square = size[0] == size[1]
    pairs = (p for p in itertools.product(*sides) if (p[0] == p[1] or not square) and _fits(encoder, p))
    near = min(pairs, key=lambda pair: sum(abs(a - b) for a, b in zip(pair, size, strict=True)))
    raise InputError(
        f"images of {size[0]}x{size[1]} do not divide into patches of {encoder.patch_size}, windows of "
        f"{encoder.window} and {len(encoder.depths) - 1} mergings; nearest: {near[0]}x{near[1]}"
    )


def _fits(encoder: Swin, size: Grid) -> bool:
    if any(side % (encoder.patch_size * 2 ** (len(encoder.depths) - 1)) for side in size):
        return False
    for stage in range(len(encoder.depths)):
        grid = [side // (encoder.patch_size * 2**stage) for side in size]
        window = min(encoder.window, *grid)
        if any(side % window for side in grid):
            return False
    return True


def swin(
    name: str,
    *,
    patch_size: int = 4,
    channels: int = 3,
    window: int | None = None,
    width: int | None = None,
    depths: tuple[int, ...] | None = None,
    heads: tuple[int, ...] | None = None,
    drop_path: float = 0.0,
    remat: bool = False,
    dtype: str = "bfloat16",
    norm_eps: float = 1e-5,
) -> Swin:
    """The config's `model` section -> encoder.

    Args:
      name: a size of `models.ENCODERS`; window, width, depths and heads (per stage) override it.
      patch_size, channels, drop_path, remat, dtype, norm_eps: as `models.vit.vit`; Swin's ε is 1e-5.

    Raises:
      InputError: an unknown name, as many heads as stages missed, a width that the heads do not divide.
    """
    if name not in ENCODERS:
        raise unknown("model", name, ENCODERS)
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    said = {"window": window, "width": width, "depths": depths, "heads": heads}
    size = ENCODERS[name][1] | {key: value for key, value in said.items() if value is not None}
    size |= {"depths": tuple(size["depths"]), "heads": tuple(size["heads"])}
    if len(size["depths"]) != len(size["heads"]):
        raise InputError(f"heads={size['heads']}: depths={size['depths']} needs {len(size['depths'])} of them")
    for stage, count in enumerate(size["heads"]):
        here = size["width"] * 2**stage
        if here % count:
            near = min((h for h in range(1, here + 1) if here % h == 0), key=lambda h: abs(h - count))
            raise InputError(f"width {here} of stage {stage + 1} is no multiple of {count} heads; nearest: {near}")
    if size["window"] < 1:
        raise InputError(f"window={size['window']}; the least is 1")
    rest = {"drop_path": drop_path, "remat": remat, "dtype": dtype, "norm_eps": norm_eps}
    return Swin(**size, patch_size=patch_size, channels=channels, **rest)
