"""Plain vision transformers (ViT, DeiT, MAE, MAE-Lite): the encoder, and the function behind the config's `model`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lvit_jax.errors import InputError, unknown
from lvit_jax.models import ENCODERS
from lvit_jax.models.features import Features
from lvit_jax.models.layers import Block, LayerNorm, PatchEmbed, grid_of
from lvit_jax.models.positions import sincos_2d

POSITIONS = ("sincos", "learned")
DTYPES = ("bfloat16", "float32")


class ViT(nn.Module):
    """A ViT with a CLS token: images of any size that is a multiple of the patch size -> Features."""

    width: int
    depth: int
    heads: int
    patch_size: int = 16
    channels: int = 3
    positions: str = "sincos"  # fixed, as in pre-training; "learned" starts from the same values (fine-tuning)
    drop_path: float = 0.0  # of the last block; rises linearly from 0 in the first
    remat: bool = False  # recompute each block in the backward pass: less memory, about a third more compute
    dtype: str = "bfloat16"  # of the computation; parameters are float32
    final_norm: bool = True  # part of the encoder in pre-training and in teachers; classifiers norm in their head
    norm_eps: float = 1e-6  # of every LayerNorm; transformers folders state others

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
        rates = np.linspace(0.0, self.drop_path, self.depth).tolist()
        for i, rate in enumerate(rates):  # attributes, so that the names are block_0, block_1, ...
            setattr(self, f"block_{i}", block(self.heads, rate, dtype, norm_eps=self.norm_eps))
        if self.final_norm:
            self.norm = LayerNorm(dtype, self.norm_eps)

    @nn.compact
    def __call__(self, images: jax.Array, keep: jax.Array | None = None, *, train: bool = False) -> Features:
        """Encodes images, or only some patches of each.

        Args:
          images: float [B,H,W,C], normalised.
          keep: int32 [B,K], the patches to encode, in this order; all where None.
          train: draw drop-path from the rng collection "dropout".

        Returns:
          Features with tokens [B,1+N,D] or [B,1+K,D].

        Raises:
          InputError: image sides that the patch size does not divide, or another number of channels.
        """
        grid = grid_of(images, self.patch_size)
        table = sincos_2d(self.width, grid)
        if self.positions == "learned":
            table = self.param("pos_embed", lambda _: jnp.asarray(table)[None])[0]
        table = jnp.asarray(table)
        patches = self.patch_embed(images, keep) + (table[1:] if keep is None else table[1:][keep])
        cls = jnp.broadcast_to(self.cls_token + table[:1], (len(images), 1, self.width))
        x = jnp.concatenate([cls, patches], axis=1).astype(self.dtype)
        blocks = []
        for i in range(self.depth):
            blocks.append(getattr(self, f"block_{i}")(x, train))
            x = blocks[-1].x
        return Features(tokens=self.norm(x) if self.final_norm else x, blocks=tuple(blocks), grid=grid)


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
    remat: bool = False,
    dtype: str = "bfloat16",
    norm_eps: float = 1e-6,
) -> ViT:
    """The config's `model` section -> encoder.

    Args:
      name: a size of `models.ENCODERS`; heads, depth and width override it (`heads=3` makes DeiT-Ti of vit_tiny).
      patch_size: side of a patch in pixels.
      channels: of the images.
      positions: "sincos" or "learned".
      drop_path: rate of the last block.
      remat: recompute blocks in the backward pass.
      dtype: of the computation, "bfloat16" or "float32".
      norm_eps: ε of every LayerNorm; imports from transformers state their own.

    Raises:
      InputError: an unknown name, or a width that the heads do not divide.
    """
    sizes = {key: size for key, (kind, size) in ENCODERS.items() if kind == "vit"}
    if name not in sizes:
        raise unknown("model", name, sizes)
    if positions not in POSITIONS:
        raise unknown("positions", positions, POSITIONS)
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    size = sizes[name] | {
        key: value for key, value in {"width": width, "depth": depth, "heads": heads}.items() if value is not None
    }
    if size["width"] % size["heads"]:
        valid = [h for h in range(1, size["width"] + 1) if size["width"] % h == 0]
        near = min(valid, key=lambda h: abs(h - size["heads"]))
        raise InputError(f"width {size['width']} is no multiple of heads={size['heads']}; nearest: {near}")
    return ViT(
        **size,
        patch_size=patch_size,
        channels=channels,
        positions=positions,
        drop_path=drop_path,
        remat=remat,
        dtype=dtype,
        norm_eps=norm_eps,
    )
