"""The parts of a ViT: patch embedding, attention, MLP, drop-path, block. Names of parameters follow timm and MAE."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lvit_jax.errors import InputError
from lvit_jax.models.features import BlockOut, attend
from lvit_jax.models.ops import gelu, layer_norm, linear

DROP_PATH_SHAPES = ("linear", "constant")
xavier = nn.initializers.xavier_uniform()


def torch_uniform(fan_in: int) -> nn.initializers.Initializer:
    """PyTorch's default for the weight and the bias of a Linear or a convolution."""
    return lambda rng, shape, dtype=jnp.float32: jax.random.uniform(
        rng, shape, dtype, minval=-(fan_in**-0.5), maxval=fan_in**-0.5
    )


def grid_of(images: jax.Array, patch_size: int) -> tuple[int, int]:
    """(rows, columns) of patches in images [B,H,W,C].

    Raises:
      InputError: a side is no multiple of the patch size.
    """
    for side in images.shape[1:3]:
        if side % patch_size:
            nearest = max(1, round(side / patch_size)) * patch_size
            raise InputError(f"an image side of {side} is no multiple of patch size {patch_size}; nearest: {nearest}")
    return images.shape[1] // patch_size, images.shape[2] // patch_size


def patchify(images: jax.Array, patch_size: int) -> jax.Array:
    """[B,H,W,C] -> [B,N,P]: patches row by row, each flattened in MAE's order (row, column, channel)."""
    (rows, columns), p = grid_of(images, patch_size), patch_size
    # A row of a patch, pixels and channels, moves as one: TPUs pad the last dimension to 128.
    x = images.reshape(len(images), rows, p, columns, -1)
    return x.swapaxes(2, 3).reshape(len(images), rows * columns, -1)


def unpatchify(patches: jax.Array, patch_size: int, grid: tuple[int, int]) -> jax.Array:
    """The inverse of `patchify`: [B,N,P] -> [B,H,W,C]."""
    p = patch_size
    x = patches.reshape(len(patches), *grid, p, p, -1).swapaxes(2, 3)
    return x.reshape(len(patches), grid[0] * p, grid[1] * p, -1)


def take(tokens: jax.Array, indices: jax.Array) -> jax.Array:
    """tokens [B,N,D] at indices [B,K] -> [B,K,D]."""
    return jnp.take_along_axis(tokens, indices[:, :, None], axis=1)


class Linear(nn.Module):
    """A Linear with MAE's initialisation: Xavier-uniform weight, zero bias."""

    features: int
    dtype: jnp.dtype
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[...,D] -> [...,features], in `dtype`."""
        kernel = self.param("kernel", xavier, (x.shape[-1], self.features))
        flat = linear(x.reshape(-1, x.shape[-1]).astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            flat = flat + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return flat.reshape(*x.shape[:-1], self.features)


class LayerNorm(nn.Module):
    """LN, computed in float32, returned in `dtype`; its ε is MAE's where nothing else is said."""

    dtype: jnp.dtype
    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[...,D] -> [...,D]."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return layer_norm(x.reshape(-1, x.shape[-1]), scale, bias, self.eps).reshape(x.shape).astype(self.dtype)


class PatchEmbed(nn.Module):
    """The stride-p convolution of ViT, as one matrix product over patches.

    Only the patches of `keep` are embedded: MAE embeds all and drops three quarters, which gives the same numbers.
    """

    width: int
    patch_size: int
    channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, images: jax.Array, keep: jax.Array | None = None) -> jax.Array:
        """images [B,H,W,C], keep int32 [B,K] or None -> [B,N or K,D]."""
        if images.shape[-1] != self.channels:
            raise InputError(f"the model takes {self.channels} channels, the images have {images.shape[-1]}")
        p, c = self.patch_size, self.channels
        fan_in = p * p * c

        def kernel_init(rng, shape):
            return xavier(rng, (fan_in, shape[-1])).reshape(shape)  # on the flattened weight, as MAE

        kernel = self.param("kernel", kernel_init, (p, p, c, self.width))
        bias = self.param("bias", torch_uniform(fan_in), (self.width,))  # which MAE leaves as it is
        patches = patchify(images, p)
        patches = patches if keep is None else take(patches, keep)
        kernel = kernel.reshape(fan_in, self.width).astype(self.dtype)
        embedded = linear(patches.reshape(-1, fan_in).astype(self.dtype), kernel) + bias.astype(self.dtype)
        return embedded.reshape(*patches.shape[:2], self.width)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens; `partial` keeps only the qkv projection."""

    heads: int
    dtype: jnp.dtype
    partial: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, normed: jax.Array) -> BlockOut:
        """x (residual stream) and normed [B,N,D] -> BlockOut of this attention, with x as it came and mlp None."""
        b, n, d = normed.shape
        qkv = Linear(3 * d, self.dtype, name="qkv")(normed).reshape(b, 1, n, 3, self.heads, d // self.heads)
        q, k, v = qkv[:, :, :, 0], qkv[:, :, :, 1], qkv[:, :, :, 2]  # [B,1,N,H,K]
        out = BlockOut(x=x, normed=normed, attn=None, mlp=None, q=q, k=k, v=v)
        if self.partial:
            return out
        return out.replace(attn=Linear(d, self.dtype, name="proj")(attend(out).reshape(b, n, d)))


class Mlp(nn.Module):
    """Linear to 4D, exact GELU, Linear back."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B,N,D] -> [B,N,D]."""
        hidden = Linear(4 * x.shape[-1], self.dtype, name="fc1")(x)
        return Linear(x.shape[-1], self.dtype, name="fc2")(gelu(hidden))


class DropPath(nn.Module):
    """Stochastic depth: drops a branch for whole examples, and scales the kept ones by 1/keep (timm)."""

    rate: float

    @nn.compact
    def __call__(self, branch: jax.Array, train: bool) -> jax.Array:
        """[B,N,D] -> [B,N,D]; draws from the rng collection 'dropout' when training."""
        if not train or self.rate == 0.0:
            return branch
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - self.rate, (len(branch), 1, 1))
        return branch * (keep / (1.0 - self.rate)).astype(branch.dtype)


def drop_path_rates(rate: float, depth: int, shape: str = "linear") -> list[float]:
    """Drop-path per block: "linear" rises from 0 to `rate`; "constant" is `rate` in all but the last (TinyMIM).

    Raises:
      InputError: a rate outside [0, 1).
    """
    if not 0 <= rate < 1:
        raise InputError(f"a drop-path rate of {rate} is outside [0, 1); nearest: {0.0 if rate < 0 else 0.99}")
    if shape == "constant":
        return [rate] * (depth - 1) + [0.0]
    return np.linspace(0.0, rate, depth).tolist()


class Block(nn.Module):
    """A pre-norm transformer block. `partial`: only norm1 and attn/qkv exist (`adapters.qkv_probe`)."""

    heads: int
    drop_path: float
    dtype: jnp.dtype
    partial: bool = False
    norm_eps: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> BlockOut:
        """[B,N,D] -> BlockOut."""
        normed = LayerNorm(self.dtype, self.norm_eps, name="norm1")(x)
        out = Attention(self.heads, self.dtype, self.partial, name="attn")(x, normed)
        if self.partial:
            return out
        x = _add(x, DropPath(self.drop_path)(out.attn, train))
        mlp = Mlp(self.dtype, name="mlp")(LayerNorm(self.dtype, self.norm_eps, name="norm2")(x))
        return out.replace(x=_add(x, DropPath(self.drop_path)(mlp, train)), middle=x, mlp=mlp)


def _add(x: jax.Array, branch: jax.Array) -> jax.Array:
    """x + branch, flat: a sum that a matrix product reads without reshape is stored once (see ops.py)."""
    return (x.reshape(-1, x.shape[-1]) + branch.reshape(-1, x.shape[-1])).reshape(x.shape)
