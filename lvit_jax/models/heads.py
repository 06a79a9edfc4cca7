"""Heads on pooled features. The classifier is timm's ViT: mean pooling with `fc_norm`, or the CLS token."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lvit_jax.errors import InputError, unknown
from lvit_jax.models.features import Features
from lvit_jax.models.layers import LayerNorm

POOLS = ("mean", "cls", "norm_mean")  # the last norms every token before the mean, as Swin does


def pool(features: Features, how: str) -> jax.Array:
    """The mean over the patches, or the CLS token: float32 [B,D].

    Raises:
      InputError: "cls" of an encoder that has none.
    """
    if how == "cls" and not features.prefix:
        raise InputError("pool='cls', but this encoder has no CLS token; nearest: 'mean'")
    tokens = (features.patches if how == "mean" else features.tokens[:, :1]).astype(jnp.float32)
    return tokens.mean(axis=1)


class Head(nn.Module):
    """Pool, norm, Linear; in float32, as it decides."""

    classes: int
    pool: str = "mean"  # over the patches, CLS excluded; or another of POOLS
    std: float = 0.02  # MAE-Lite; MAE starts its head at 2e-5
    norm_eps: float = 1e-6
    norm: bool = True  # convolutional classifiers have none

    @nn.compact
    def __call__(self, features: Features) -> jax.Array:
        """Features whose tokens are not normed -> float32 logits [B,C]."""
        norm = LayerNorm(jnp.float32, self.norm_eps, name="norm") if self.norm else None
        # timm's trunc_normal_ cuts at ±2 absolute, a hundred deviations away: a plain normal.
        fc = nn.Dense(self.classes, kernel_init=nn.initializers.normal(self.std), name="fc")
        if self.pool == "norm_mean":
            return fc(pool(features.replace(tokens=norm(features.tokens)), "mean"))
        pooled = pool(features, self.pool)
        return fc(norm(pooled) if self.norm else pooled)


class Classifier(nn.Module):
    """An encoder without final norm, and a head."""

    encoder: nn.Module
    head: Head

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """images [B,H,W,C] -> float32 logits [B,C]."""
        return self.head(self.encoder(images, train=train))


class DistilledClassifier(nn.Module):
    """Two heads (DeiT): one on the pooled patches, and one on CLS, which plays the distillation token (recipes 1.1)."""

    encoder: nn.Module
    head: Head
    dist_head: Head

    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """images [B,H,W,C] -> float32 logits [B,C] of the main head and of the distillation head."""
        features = self.encoder(images, train=train)
        return self.head(features), self.dist_head(features)


def classifier(
    encoder: nn.Module, classes: int, pool: str = "mean", head_std: float = 0.02, norm: bool = True
) -> Classifier:
    """A classifier on any encoder; its final norm, if it had one, gives way to the head's.

    Raises:
      InputError: an unknown pooling.
    """
    if pool not in POOLS:
        raise unknown("pool", pool, POOLS)
    return Classifier(encoder.clone(final_norm=False), Head(classes, pool, head_std, encoder.norm_eps, norm))


def distilled_classifier(encoder: nn.Module, classes: int, head_std: float = 0.02) -> DistilledClassifier:
    """A classifier with a second head on CLS, for distillation."""
    heads = (Head(classes, pool, head_std, encoder.norm_eps) for pool in ("mean", "cls"))
    return DistilledClassifier(encoder.clone(final_norm=False), *heads)
