"""What stands between a student's view and a teacher's: linear maps, trained along, later dropped."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from lvit_jax.models.layers import Block, Linear, torch_uniform
from lvit_jax.models.vit import ViT


class Adapter(nn.Module):
    """A Linear without bias along one axis: the 1x1 convolution across heads of D-MAE, or a projection of widths."""

    features: int
    axis: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """float32, `axis` of any size -> `axis` of size `features`."""
        size = x.shape[self.axis]
        kernel = self.param("kernel", torch_uniform(size), (size, self.features))
        # Logits reach tens: on TPU the default precision would round them to bfloat16 first.
        mixed = jnp.tensordot(x, kernel, axes=(self.axis, 0), precision=jax.lax.Precision.HIGHEST)
        return jnp.moveaxis(mixed, -1, self.axis)


class Adapters(nn.Module):
    """One Adapter per pair of layers, named pair_0, pair_1, ..."""

    features: int
    axis: int

    @nn.compact
    def __call__(self, views: Sequence[jax.Array]) -> list[jax.Array]:
        """Student views in the order of the pairs -> views of the teacher's shape."""
        return [Adapter(self.features, self.axis, name=f"pair_{j}")(view) for j, view in enumerate(views)]


class Projections(nn.Module):
    """One Linear with bias per view and named after it, to the teacher's width (TinyMIM's CLS and feature targets)."""

    width: int

    @nn.compact
    def __call__(self, views: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """float32 [...,D] each -> [...,width] each."""
        return {name: Linear(self.width, jnp.float32, name=name)(view) for name, view in views.items()}


def qkv_probe(encoder: ViT) -> Block:
    """Block 13 of D²-MAE: the norm1 and qkv of one more block, of which only the attention logits are used.

    An adapter and not a part of the encoder, which so keeps its nominal depth for everything that comes after.
    """
    return Block(encoder.heads, 0.0, jnp.dtype(encoder.dtype), partial=True, norm_eps=encoder.norm_eps)
