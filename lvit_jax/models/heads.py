"""Heads on pooled features. The classifier is timm's ViT: mean pooling with `fc_norm`, or the CLS token."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lvit_jax.errors import unknown
from lvit_jax.models.layers import LayerNorm
from lvit_jax.models.vit import ViT

POOLS = ("mean", "cls")


class Head(nn.Module):
    """Pool, norm, Linear; in float32, as it decides."""

    classes: int
    pool: str = "mean"  # over the patches, CLS excluded; or "cls"
    std: float = 0.02  # MAE-Lite; MAE starts its head at 2e-5
    norm_eps: float = 1e-6

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """tokens [B,1+N,D], not normed -> float32 logits [B,C]."""
        tokens = tokens.astype(jnp.float32)
        pooled = tokens[:, 1:].mean(axis=1) if self.pool == "mean" else tokens[:, 0]
        # timm's trunc_normal_ cuts at ±2 absolute, a hundred deviations away: a plain normal.
        fc = nn.Dense(self.classes, kernel_init=nn.initializers.normal(self.std), name="fc")
        return fc(LayerNorm(jnp.float32, self.norm_eps, name="norm")(pooled))


class Classifier(nn.Module):
    """An encoder without final norm, and a head."""

    encoder: ViT
    head: Head

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """images [B,H,W,C] -> float32 logits [B,C]."""
        return self.head(self.encoder(images, train=train).tokens)


def classifier(encoder: ViT, classes: int, pool: str = "mean", head_std: float = 0.02) -> Classifier:
    """A classifier on any encoder; its final norm, if it had one, gives way to the head's.

    Raises:
      InputError: an unknown pooling.
    """
    if pool not in POOLS:
        raise unknown("pool", pool, POOLS)
    return Classifier(encoder.clone(final_norm=False), Head(classes, pool, head_std, encoder.norm_eps))
