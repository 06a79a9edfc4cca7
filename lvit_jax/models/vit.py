"""Plain vision transformers (ViT, DeiT, MAE, MAE-Lite): the encoder, and the function behind the config's `model`."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lvit_jax.errors import unknown
from lvit_jax.models.features import Features
from lvit_jax.models.layers import DROP_PATH_SHAPES, Block, LayerNorm, PatchEmbed, drop_path_rates, grid_of
from lvit_jax.models.positions import FIXED, sincos_2d
from lvit_jax.models.sizes import check_divides, size_of

POSITIONS = (*FIXED, "learned")


class ViT(nn.Module):
    """A ViT with a CLS token: images of any size that is a multiple of the patch size -> Features."""

    width: int
    depth: int
    heads: int
    patch_size: int = 16
    channels: int = 3
    positions: str = "sincos"  # fixed, as in pre-training; "learned" starts from these values (fine-tuning)
    drop_path: float = 0.0  # the largest rate of a block, see `layers.drop_path_rates`
    drop_path_shape: str = "linear"
    last_heads: int | None = None  # of the last block where it has other heads than the rest (TinyMIM's students)
    remat: bool = False  # recompute each block in the backward pass: less memory, about a third more compute
    dtype: str = "bfloat16"  # of the computation; parameters are float32
    final_norm: bool = True  # part of the encoder in pre-training and in teachers; classifiers norm in their head
    norm_eps: float = 1e-6  # of every LayerNorm; transformers folders state others
    distill_token: bool = False  # one more token after CLS, without position (`heads.distilled_classifier`)

    prefix = 1  # row of the position table for CLS

    @property
    def mask_size(self) -> int:
        """Side in pixels of what `keep` counts."""
        return self.patch_size

    def mask_grid(self, images: jax.Array) -> tuple[int, int]:
        """(rows, columns) of what `keep` counts: the patches of images [B,H,W,C]."""
        return grid_of(images, self.patch_size)

    def position_grid(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of the position table for images of this size."""
        return height // self.patch_size, width // self.patch_size

    def setup(self):
        dtype = jnp.dtype(self.dtype)
        self.patch_embed = PatchEmbed(self.width, self.patch_size, self.channels, dtype)
        self.cls_token = self.param("cls_token", nn.initializers.normal(0.02), (1, 1, self.width))
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        rates = drop_path_rates(self.drop_path, self.depth, self.drop_path_shape)
        for i, rate in enumerate(rates):  # attributes, so that the names are block_0, block_1, ...
            setattr(self, f"block_{i}", block(self.heads_of(i + 1), rate, dtype, norm_eps=self.norm_eps))
        if self.final_norm:
            self.norm = LayerNorm(dtype, self.norm_eps)

    def heads_of(self, layer: int) -> int:
        """Heads of a block, counted from 1."""
        return self.last_heads if self.last_heads and layer == self.depth else self.heads

    @nn.compact
    def __call__(
        self, images: jax.Array, keep: jax.Array | None = None, *, mask: jax.Array | None = None, train: bool = False
    ) -> Features:
        """Encodes images, or only some patches of each, or with some patches hidden.

        Args:
          images: float [B,H,W,C], normalised.
          keep: int32 [B,K], the patches to encode, in this order; all where None.
          mask: float [B,N], 1 = the patch's embedding gives way to the mask token (SimMIM); not together with `keep`.
          train: draw drop-path from the rng collection "dropout".

        Returns:
          Features with tokens [B,1+N,D] or [B,1+K,D].

        Raises:
          InputError: image sides that the patch size does not divide, or another number of channels.
        """
        grid = grid_of(images, self.patch_size)
        table = FIXED.get(self.positions, sincos_2d)(self.width, grid)
        if self.positions == "learned":
            table = self.param("pos_embed", lambda _: jnp.asarray(table)[None])[0]
        table = jnp.asarray(table)
        patches = self.patch_embed(images, keep)
        if mask is not None:
            token = self.param("mask_token", nn.initializers.normal(0.02), (1, 1, self.width))
            patches = jnp.where(mask[:, :, None] > 0, token.astype(self.dtype), patches)
        patches = patches + (table[1:] if keep is None else table[1:][keep])
        prefix = self.cls_token + table[:1]
        if self.distill_token:
            token = self.param("dist_token", nn.initializers.normal(0.02), (1, 1, self.width))
            prefix = jnp.concatenate([prefix, token], axis=1)
        prefix = jnp.broadcast_to(prefix, (len(images), *prefix.shape[1:]))
        x = jnp.concatenate([prefix, patches], axis=1).astype(self.dtype)
        blocks = []
        for i in range(self.depth):
            blocks.append(getattr(self, f"block_{i}")(x, train))
            x = blocks[-1].x
        tokens = self.norm(x) if self.final_norm else x
        return Features(tokens=tokens, blocks=tuple(blocks), grid=grid, prefix=prefix.shape[1])


def vit(
    name: str,
    *,
    patch_size: int = 16,
    channels: int = 3,
    heads: int | None = None,
    depth: int | None = None,
    width: int | None = None,
    positions: str = "sincos",
    drop_path: float = 0.0,
    drop_path_shape: str = "linear",
    last_heads: int | None = None,
    remat: bool = False,
    dtype: str = "bfloat16",
    norm_eps: float = 1e-6,
) -> ViT:
    """The config's `model` section -> encoder.

    Args:
      name: a size of `models.ENCODERS`; heads, depth and width override it (`heads=3` makes DeiT-Ti of vit_tiny).
      patch_size: side of a patch in pixels.
      channels: of the images.
      positions: "sincos" (MAE's layout), "sincos_moco" (MoCo-v3's) or "learned" (starts from MAE's).
      drop_path: rate of the last block, or of all the others where its shape is "constant".
      drop_path_shape: "linear" or "constant", see `layers.drop_path_rates`.
      last_heads: heads of the last block where it has others than the rest.
      remat: recompute blocks in the backward pass.
      dtype: of the computation, "bfloat16" or "float32".
      norm_eps: ε of every LayerNorm; imports from transformers state their own.

    Raises:
      InputError: an unknown name, or a width that the heads do not divide.
    """
    size = size_of(name, dtype, "vit", "vit_rpe")
    if positions not in POSITIONS:
        raise unknown("positions", positions, POSITIONS)
    if drop_path_shape not in DROP_PATH_SHAPES:
        raise unknown("drop_path_shape", drop_path_shape, DROP_PATH_SHAPES)
    said = {"width": width, "depth": depth, "heads": heads}
    size |= {key: value for key, value in said.items() if value is not None}
    check_divides("width", size["width"], "heads", size["heads"])
    if last_heads is not None:
        check_divides("width", size["width"], "last_heads", last_heads)
    return ViT(
        **size,
        patch_size=patch_size,
        channels=channels,
        positions=positions,
        drop_path=drop_path,
        drop_path_shape=drop_path_shape,
        last_heads=last_heads,
        remat=remat,
        dtype=dtype,
        norm_eps=norm_eps,
    )
