"""Losses: arrays in, float32 scalars out. Write for the global batch; `jit` does the rest."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lvit_jax.models.layers import patchify


class Targets(NamedTuple):
    """What a masked autoencoder predicts, and what turns it into pixels again: pixels = target·std + mean."""

    target: jax.Array  # float32 [B,N,P]
    mean: jax.Array  # float32 [B,N,1], or a scalar 0
    std: jax.Array  # float32 [B,N,1], or a scalar 1


def pixel_targets(images: jax.Array, patch_size: int, norm_pix: bool) -> Targets:
    """Patch pixels of images [B,H,W,C], each patch normalised by its own statistics if `norm_pix`.

    The variance is the unbiased one (P-1), as `torch.var` in MAE's loss; ε is 1e-6, under the root.
    """
    patches = patchify(images, patch_size).astype(jnp.float32)
    if not norm_pix:
        return Targets(patches, jnp.float32(0), jnp.float32(1))
    mean = patches.mean(axis=-1, keepdims=True)
    std = jnp.sqrt(patches.var(axis=-1, keepdims=True, ddof=1) + 1e-6)
    return Targets((patches - mean) / std, mean, std)


def masked_mse(prediction: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """MAE's loss: mean over P of [B,N,P], then the mean over the removed patches (mask [B,N], 1 = counted)."""
    errors = jnp.square(prediction.astype(jnp.float32) - target).mean(axis=-1)
    return (errors * mask).sum() / mask.sum()


def mse(a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean squared difference over all elements."""
    return jnp.square(a.astype(jnp.float32) - b.astype(jnp.float32)).mean()


def smooth_l1(a: jax.Array, b: jax.Array, beta: float) -> jax.Array:
    """Mean over all elements of d²/2β where |d| < β, of |d| - β/2 elsewhere (PyTorch's smooth_l1_loss)."""
    distance = jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32))
    return jnp.where(distance < beta, jnp.square(distance) / (2 * beta), distance - beta / 2).mean()


def kl_divergence(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """KL(softmax(targets) ‖ softmax(logits)) over the last axis of float32 logits, mean over all the others."""
    ours, theirs = jax.nn.log_softmax(logits), jax.nn.log_softmax(targets)
    return (jnp.exp(theirs) * (theirs - ours)).sum(axis=-1).mean()


def soft_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over the batch of -Σ targets·log softmax(logits): both [B,C]."""
    return -(targets * jax.nn.log_softmax(logits.astype(jnp.float32))).sum(axis=-1).mean()


def hard_distillation(logits: jax.Array, teacher: jax.Array) -> jax.Array:
    """Cross-entropy of logits [B,C] against the teacher's largest logit: DeiT's hard distillation."""
    return soft_cross_entropy(logits, jax.nn.one_hot(teacher.argmax(axis=-1), teacher.shape[-1]))


def soft_distillation(logits: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
    """Σ KL(teacher/τ ‖ logits/τ)·τ²/(B·C) of logits [B,C]: the sum over the elements, not over examples (DeiT)."""
    ours, theirs = (jax.nn.log_softmax(x.astype(jnp.float32) / temperature) for x in (logits, teacher))
    return (jnp.exp(theirs) * (theirs - ours)).sum() * temperature**2 / logits.size


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Share of rows of logits [B,C] whose largest entry is the label [B]."""
    return (logits.argmax(axis=-1) == labels).astype(jnp.float32).mean()
