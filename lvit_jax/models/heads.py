"""Heads on pooled features. The classifier is timm's ViT: mean pooling with `fc_norm`, or the CLS token."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lvit_jax.errors import InputError, unknown
from lvit_jax.models.features import Features
from lvit_jax.models.layers import LayerNorm
from lvit_jax.models.vit import ViT

POOLS = ("mean", "cls", "norm_mean")  # the last norms every token before the mean, as Swin does


def pool(features: Features, how: str) -> jax.Array:
    """The mean over the patches, the CLS token, or ("dist") the distillation token, whose part CLS may play: [B,D].

    The result is float32. The distillation token is the last before the patches.

    Raises:
      InputError: "cls" or "dist" of an encoder that has no such token.
    """
    if how != "mean" and not features.prefix:
        raise InputError(f"pool={how!r}, but this encoder has no CLS token; nearest: 'mean'")
    place = {"cls": slice(0, 1), "dist": slice(features.prefix - 1, features.prefix)}
    tokens = (features.patches if how == "mean" else features.tokens[:, place[how]]).astype(jnp.float32)
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


class Neck(nn.Module):
    """LN, Linear to `features`, GELU, on every token: TinyMIM*'s layer before the classifiers (recipes 1.3)."""

    features: int
    norm_eps: float

    @nn.compact
    def __call__(self, features: Features) -> Features:
        """Features whose tokens are not normed -> the same of another width; in float32."""
        normed = LayerNorm(jnp.float32, self.norm_eps, name="norm")(features.tokens)
        fc = nn.Dense(self.features, kernel_init=nn.initializers.normal(0.02), name="fc")
        return features.replace(tokens=nn.gelu(fc(normed), approximate=False))


class DistilledClassifier(nn.Module):
    """Two heads (DeiT): one on the patches or CLS, one on the distillation token (recipes 1.1, 1.3)."""

    encoder: nn.Module
    neck: Neck | None
    head: Head
    dist_head: Head
    averaged: bool = False  # answer as one classifier, by the mean of both heads' logits: predictions, teachers

    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array] | jax.Array:
        """images [B,H,W,C] -> float32 logits [B,C] of the main head and of the distillation head, or their mean."""
        features = self.encoder(images, train=train)
        if self.head.pool == "cls":  # then no head reads the patches, and the neck need not
            features = features.replace(tokens=features.tokens[:, : features.prefix])
        features = self.neck(features) if self.neck else features
        main, dist = self.head(features), self.dist_head(features)
        return (main + dist) / 2 if self.averaged else (main, dist)


def classifier(
    encoder: nn.Module, classes: int, pool: str = "mean", head_std: float = 0.02, norm: bool = True
) -> Classifier:
    """A classifier on any encoder; its final norm, if it had one, gives way to the head's.

    Raises:
      InputError: an unknown pooling.
    """
    _check_pool(pool, norm)
    return Classifier(encoder.clone(final_norm=False), Head(classes, pool, head_std, encoder.norm_eps, norm))


def distilled_classifier(
    encoder: nn.Module,
    classes: int,
    pool: str = "mean",
    head_std: float = 0.02,
    own_token: bool = False,
    expand: int | None = None,
) -> DistilledClassifier:
    """A classifier with a second head for distillation, on CLS or on a token of its own.

    Args:
      pool: of the main head.
      own_token: a distillation token beside CLS; otherwise CLS plays its part (MAE-Lite).
      expand: the width of a layer that both heads read in place of a norm each; None for none.

    Raises:
      InputError: an unknown pooling, or a token of its own for another encoder than a plain ViT.
    """
    _check_pool(pool, norm=not expand)
    if own_token and not isinstance(encoder, ViT):
        raise InputError("a distillation token of its own is for plain ViTs; nearest: token='cls'")
    encoder = encoder.clone(final_norm=False, **({"distill_token": True} if own_token else {}))
    heads = (Head(classes, how, head_std, encoder.norm_eps, not expand) for how in (pool, "dist"))
    return DistilledClassifier(encoder, Neck(expand, encoder.norm_eps) if expand else None, *heads)


def _check_pool(pool: str, norm: bool) -> None:
    if pool not in POOLS:
        raise unknown("pool", pool, POOLS)
    if pool == "norm_mean" and not norm:
        raise InputError(
            "pool='norm_mean' takes the mean behind the head's norm, and these heads have none; nearest: 'mean'"
        )
