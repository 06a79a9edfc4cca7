"""The decoder of Hiera's masked autoencoder (facebookresearch/hiera hiera_mae.py; recipes 1.4)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lvit_jax.models.hiera_layers import roll, to_grid
from lvit_jax.models.layers import Block, LayerNorm, Linear, take

normal = nn.initializers.normal(0.02)


class HieraDecoder(nn.Module):
    """Kept mask units back in their places, mask tokens in the others, a few blocks of global attention, pixels."""

    width: int
    depth: int
    heads: int
    patch_size: int
    channels: int
    dtype: str
    norm_eps: float = 1e-6
    remat: bool = False  # as the encoder's

    @nn.compact
    def __call__(self, latent: jax.Array, restore: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """Fused tokens [B,K·n,D] of the kept units, restore int32 [B,U], grid of patches -> float32 [B,N,P].

        P is in (row, column, channel) order as everywhere here; the head's own order is the reference's, channel
        first, so that its weights are (the loss does not see the order).
        """
        dtype, (rows, columns), units = jnp.dtype(self.dtype), grid, restore.shape[1]
        n = rows * columns // units
        side = round(n**0.5)
        x = Linear(self.width, dtype, name="embed")(latent)
        x = roll(x.reshape(len(x), -1, n, self.width))
        mask_token = self.param("mask_token", normal, (1, 1, self.width)).astype(dtype)
        kept = x.shape[1]
        places = take(x.reshape(len(x), kept, -1), jnp.minimum(restore, kept - 1))
        places = places.reshape(len(x), units, side, side, self.width)
        x = jnp.where((restore < kept)[:, :, None, None, None], places, mask_token)
        x = to_grid(x, (rows // side, columns // side))
        x = (x + self.param("pos_embed", normal, (1, rows * columns, self.width))).astype(dtype)
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for i in range(self.depth):
            x = block(self.heads, 0.0, dtype, norm_eps=self.norm_eps, name=f"block_{i}")(x, False).x
        x = LayerNorm(dtype, self.norm_eps, name="norm")(x)
        x = Linear(self.patch_size**2 * self.channels, dtype, name="head")(x).astype(jnp.float32)
        p, c = self.patch_size, self.channels
        return x.reshape(*x.shape[:2], c, p * p).swapaxes(2, 3).reshape(x.shape)
