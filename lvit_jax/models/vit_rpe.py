"""The RPE ViT of MAE-Lite (models_vit_rpe.py; recipes 1.2): a ViT with relative-position biases, as in BEiT.

For classification: all patches are seen, since `BlockOut.bias` is one [H,M,N] for all images.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lvit_jax.errors import InputError, unknown
from lvit_jax.models.features import BlockOut, Features, attend
from lvit_jax.models.layers import DropPath, LayerNorm, Linear, Mlp, PatchEmbed, drop_path_rates, grid_of
from lvit_jax.models.positions import sincos_2d
from lvit_jax.models.relative import relative_index, table_rows
from lvit_jax.models.vit import vit

POSITIONS = ("sincos", "learned", "none")


class RpeAttention(nn.Module):
    """Self-attention whose logits carry a bias: a row of the table for each pair of places."""

    heads: int
    dtype: jnp.dtype
    qv_bias: bool  # separate biases of queries and values, none of keys; else one of the qkv projection
    grid: tuple[int, int]

    @nn.compact
    def __call__(self, x: jax.Array, normed: jax.Array, table: jax.Array | None) -> BlockOut:
        """x (residual stream) and normed [B,N,D], the shared table [R,H] or None for an own one -> BlockOut."""
        b, n, d = normed.shape
        qkv = Linear(3 * d, self.dtype, use_bias=not self.qv_bias, name="qkv")(normed)
        if self.qv_bias:
            q_bias, v_bias = (self.param(name, nn.initializers.zeros, (d,)) for name in ("q_bias", "v_bias"))
            qkv = qkv + jnp.concatenate([q_bias, jnp.zeros(d), v_bias]).astype(self.dtype)
        qkv = qkv.reshape(b, 1, n, 3, self.heads, d // self.heads)
        if table is None:
            table = bias_table(self, self.grid, self.heads)
        parts = {name: qkv[:, :, :, i] for i, name in enumerate("qkv")}  # [B,1,N,H,K]
        bias = table[relative_index(self.grid)].transpose(2, 0, 1)
        out = BlockOut(x=x, normed=normed, attn=None, mlp=None, **parts, bias=bias)
        return out.replace(attn=Linear(d, self.dtype, name="proj")(attend(out).reshape(b, n, d)))


def bias_table(module: nn.Module, grid: tuple[int, int], heads: int) -> jax.Array:
    """The parameter [R,H] of a module: zero at first."""
    return module.param("relative_position_bias_table", nn.initializers.zeros, (table_rows(grid), heads))


class RpeBlock(nn.Module):
    """A pre-norm block with relative positions, and LayerScale where `layer_scale` states its first value."""

    heads: int
    drop_path: float
    dtype: jnp.dtype
    qv_bias: bool
    layer_scale: float | None
    norm_eps: float
    grid: tuple[int, int]

    @nn.compact
    def __call__(self, x: jax.Array, table: jax.Array | None, train: bool) -> BlockOut:
        """[B,N,D], the shared table [R,H] or None -> BlockOut; its branches are those before LayerScale."""
        normed = LayerNorm(self.dtype, self.norm_eps, name="norm1")(x)
        out = RpeAttention(self.heads, self.dtype, self.qv_bias, self.grid, name="attn")(x, normed, table)
        x = x + DropPath(self.drop_path)(self._scaled("gamma_1", out.attn), train)
        mlp = Mlp(self.dtype, name="mlp")(LayerNorm(self.dtype, self.norm_eps, name="norm2")(x))
        return out.replace(x=x + DropPath(self.drop_path)(self._scaled("gamma_2", mlp), train), middle=x, mlp=mlp)

    def _scaled(self, name: str, branch: jax.Array) -> jax.Array:
        if self.layer_scale is None:
            return branch
        scale = self.param(name, nn.initializers.constant(self.layer_scale), branch.shape[-1:])
        return branch * scale.astype(self.dtype)


class RpeViT(nn.Module):
    """A ViT with a CLS token and relative-position biases: images of any grid -> Features."""

    width: int
    depth: int
    heads: int
    patch_size: int = 16
    channels: int = 3
    positions: str = "learned"  # the absolute ones, beside the relative: learned, fixed ("sincos") or "none"
    qv_bias: bool = True
    layer_scale: float | None = None
    shared_table: bool = False  # one table for all blocks
    drop_path: float = 0.0
    remat: bool = False
    dtype: str = "bfloat16"
    final_norm: bool = True
    norm_eps: float = 1e-6

    prefix = 1  # row of the position table for CLS

    def position_grid(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of the position tables for images of this size."""
        return height // self.patch_size, width // self.patch_size

    @nn.compact
    def __call__(self, images: jax.Array, keep: jax.Array | None = None, *, train: bool = False) -> Features:
        """images float [B,H,W,C] -> Features with tokens [B,1+N,D].

        Raises:
          InputError: patches to keep; image sides that the patch size does not divide; another number of channels.
        """
        if keep is not None:
            raise InputError("a ViT with relative positions takes whole images; for masked ones use the plain size")
        dtype, grid = jnp.dtype(self.dtype), grid_of(images, self.patch_size)
        patches = PatchEmbed(self.width, self.patch_size, self.channels, dtype, name="patch_embed")(images)
        cls = self.param("cls_token", nn.initializers.normal(0.02), (1, 1, self.width))
        x = jnp.concatenate([jnp.broadcast_to(cls, (len(images), 1, self.width)), patches], axis=1)
        x = (x + self._absolute(grid)).astype(dtype)
        table = bias_table(self, grid, self.heads) if self.shared_table else None
        block, blocks = nn.remat(RpeBlock, static_argnums=(3,)) if self.remat else RpeBlock, []
        for i, rate in enumerate(drop_path_rates(self.drop_path, self.depth)):
            options = (self.heads, rate, dtype, self.qv_bias, self.layer_scale, self.norm_eps, grid)
            blocks.append(block(*options, name=f"block_{i}")(x, table, train))
            x = blocks[-1].x
        tokens = LayerNorm(dtype, self.norm_eps, name="norm")(x) if self.final_norm else x
        return Features(tokens=tokens, blocks=tuple(blocks), grid=grid)

    def _absolute(self, grid: tuple[int, int]) -> jax.Array | float:
        """[1,1+N,D], or 0."""
        if self.positions == "none":
            return 0.0
        table = jnp.asarray(sincos_2d(self.width, grid))[None]
        return self.param("pos_embed", lambda _: table) if self.positions == "learned" else table


def vit_rpe(
    name: str,
    *,
    patch_size: int = 16,
    channels: int = 3,
    heads: int | None = None,
    depth: int | None = None,
    width: int | None = None,
    positions: str = "learned",
    qv_bias: bool = True,
    layer_scale: float | None = None,
    shared_table: bool = False,
    drop_path: float = 0.0,
    remat: bool = False,
    dtype: str = "bfloat16",
    norm_eps: float = 1e-6,
) -> RpeViT:
    """The config's `model` section -> encoder.

    Args:
      name: a size of `models.ENCODERS`; heads, depth and width override it.
      positions: absolute ones, beside the relative: "learned", "sincos" (fixed) or "none".
      qv_bias: biases of queries and values alone; the qkv bias of a plain ViT has no place here then and is dropped.
      layer_scale: the first value of LayerScale; None for none.
      shared_table: one table of biases for all blocks.
      patch_size, channels, drop_path, remat, dtype, norm_eps: as in `models.vit.vit`.

    Raises:
      InputError: as `models.vit.vit`.
    """
    if positions not in POSITIONS:
        raise unknown("positions", positions, POSITIONS)
    rest = {"patch_size": patch_size, "channels": channels, "drop_path": drop_path, "remat": remat}
    rest |= {"dtype": dtype, "norm_eps": norm_eps}
    plain = vit(name, heads=heads, depth=depth, width=width, **rest)
    return RpeViT(
        width=plain.width,
        depth=plain.depth,
        heads=plain.heads,
        positions=positions,
        qv_bias=qv_bias,
        layer_scale=layer_scale,
        shared_table=shared_table,
        **rest,
    )
