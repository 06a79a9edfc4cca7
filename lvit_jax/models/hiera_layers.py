"""The parts of Hiera: order of tokens, overlapping patch embedding, blocks that attend within mask units and pool.

Shapes: U mask units, n tokens in each, N = U·n.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from lvit_jax.errors import InputError
from lvit_jax.models.features import BlockOut, attend
from lvit_jax.models.layers import DropPath, LayerNorm, Linear, Mlp, xavier
from lvit_jax.models.ops import linear


def unroll(x: jax.Array, side: int) -> jax.Array:
    """[B,H,W,D] -> [B,U,n,D]: units of side x side tokens row by row; within, 2x2 levels, the finest leading."""
    b, h, w, d = x.shape
    levels = side.bit_length() - 1
    x = x.reshape(b, h // side, *(2,) * levels, w // side, *(2,) * levels, d)
    inner = [axis for i in range(levels) for axis in (1 + levels - i, 2 + 2 * levels - i)]
    return x.transpose(0, 1, 2 + levels, *inner, 3 + 2 * levels).reshape(b, -1, side * side, d)


def roll(x: jax.Array) -> jax.Array:
    """[B,U,n,D] -> [B,U,m,m,D]: the tokens of each unit in rows and columns."""
    b, units, n, d = x.shape
    side = math.isqrt(n)
    levels = side.bit_length() - 1
    x = x.reshape(b, units, *(2, 2) * levels, d)
    rows = [2 * levels - 2 * i for i in range(levels)]  # the coarsest first
    return x.transpose(0, 1, *rows, *(axis + 1 for axis in rows), 2 + 2 * levels).reshape(b, units, side, side, d)


def to_grid(x: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """[B,U,m,m,D] with units on a grid (rows, columns) -> [B,N,D] row-major over the whole image."""
    b, _, m, _, d = x.shape
    return x.reshape(b, *grid, m, m, d).swapaxes(2, 3).reshape(b, -1, d)


def pool_2x2(x: jax.Array, units: int) -> jax.Array:
    """The maximum over each 2x2: [B,N,D] -> [B,N/4,D]."""
    b, n, d = x.shape
    return x.reshape(b, units, 4, n // units // 4, d).max(axis=2).reshape(b, n // 4, d)


def torch_uniform(fan_in: int) -> nn.initializers.Initializer:
    """PyTorch's default for the weight and the bias of a convolution."""
    return lambda rng, shape: jax.random.uniform(rng, shape, minval=-(fan_in**-0.5), maxval=fan_in**-0.5)


class OverlappingEmbed(nn.Module):
    """A convolution with padding, one token per stride."""

    width: int
    kernel: int
    stride: int
    padding: int
    channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """[B,H,W,C] -> [B,H/stride,W/stride,D]."""
        if images.shape[-1] != self.channels:
            raise InputError(f"the model takes {self.channels} channels, the images have {images.shape[-1]}")
        k, fan_in = self.kernel, self.kernel**2 * self.channels

        def kernel_init(rng, shape):
            return xavier(rng, (fan_in, shape[-1])).reshape(shape)  # on the flattened weight, as MAE

        kernel = self.param("kernel", kernel_init, (k, k, self.channels, self.width))
        bias = self.param("bias", torch_uniform(fan_in), (self.width,))  # which Hiera and its MAE leave as it is
        x = jax.lax.conv_general_dilated(
            images.astype(self.dtype),
            kernel.astype(self.dtype),
            (self.stride, self.stride),
            [(self.padding, self.padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return x + bias.astype(self.dtype)


class MaskUnitAttention(nn.Module):
    """Attention within each mask unit or over all tokens; with `pool`, of the 2x2 maxima of the queries."""

    width: int
    heads: int
    pool: bool
    local: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, normed: jax.Array, units: int) -> BlockOut:
        """x and normed [B,N,D'] of `units` mask units -> BlockOut of this attention, with x as it came and mlp None."""
        b, n, _ = normed.shape
        windows = units if self.local else 1
        qkv = Linear(3 * self.width, self.dtype, name="qkv")(normed).reshape(b, n, 3, self.width)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        q = pool_2x2(q, units) if self.pool else q
        q, k, v = (y.reshape(b, windows, -1, self.heads, self.width // self.heads) for y in (q, k, v))
        out = BlockOut(x=x, normed=normed, attn=None, mlp=None, q=q, k=k, v=v)
        return out.replace(attn=Linear(self.width, self.dtype, name="proj")(attend(out).reshape(b, -1, self.width)))


class HieraBlock(nn.Module):
    """A pre-norm block; where it changes the width, the residual is the (pooled) projection of the normed input."""

    width: int
    heads: int
    pool: bool
    local: bool
    drop_path: float
    dtype: jnp.dtype
    norm_eps: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array, units: int, train: bool) -> BlockOut:
        """[B,N,D'] -> BlockOut whose x is [B,M,D]: M = N/4 with `pool`, else N."""
        normed = LayerNorm(self.dtype, self.norm_eps, name="norm1")(x)
        if x.shape[-1] != self.width:
            x = Linear(self.width, self.dtype, name="proj")(normed)
        x = pool_2x2(x, units) if self.pool else x
        attention = MaskUnitAttention(self.width, self.heads, self.pool, self.local, self.dtype, name="attn")
        out = attention(x, normed, units)
        x = x + DropPath(self.drop_path)(out.attn, train)
        mlp = Mlp(self.dtype, name="mlp")(LayerNorm(self.dtype, self.norm_eps, name="norm2")(x))
        return out.replace(x=x + DropPath(self.drop_path)(mlp, train), middle=x, mlp=mlp)


class Fusion(nn.Module):
    """Multi-scale fusion: a strided convolution from each earlier stage to the last one's width and grid; their sum."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, stages: Sequence[jax.Array], last: jax.Array, units: int) -> jax.Array:
        """Ends of the earlier stages [B,N',D'] and of the last [B,N,D], unit by unit -> [B,N,D]."""
        return sum((self._to_last(i, x, last, units) for i, x in enumerate(stages)), start=last)

    def _to_last(self, i: int, x: jax.Array, last: jax.Array, units: int) -> jax.Array:
        (b, n, d), (_, m, width) = x.shape, last.shape
        area = n // m  # tokens of this stage in the place of one of the last
        side, fan_in = math.isqrt(area), area * d
        kernel = self.param(f"kernel_{i}", torch_uniform(fan_in), (side, side, d, width))
        bias = self.param(f"bias_{i}", torch_uniform(fan_in), (width,))
        kernel = unroll(kernel.reshape(1, side, side, -1), side).reshape(fan_in, width)  # in the order of the tokens
        x = x.reshape(b, units, area, m // units, d).swapaxes(2, 3).reshape(-1, fan_in)
        return linear(x.astype(self.dtype), kernel.astype(self.dtype)).reshape(b, m, width) + bias.astype(self.dtype)
