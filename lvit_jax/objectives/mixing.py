"""Mixup and CutMix on the device, by timm's rules (timm/data/mixup.py, batch mode).

timm draws one λ per GPU; here one per group of consecutive images, so that results do not depend on the number of
devices. The partner of an image is its mirror place within its group.
"""

import jax
import jax.numpy as jnp


def soft_labels(labels: jax.Array, classes: int, smoothing: float) -> jax.Array:
    """int [B] -> float32 [B,C]: 1 - s + s/C on the label, s/C elsewhere."""
    return jax.nn.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes


def mix(
    rng: jax.Array, images: jax.Array, targets: jax.Array, *, mixup: float, cutmix: float, group: int = 128
) -> tuple[jax.Array, jax.Array]:
    """Mixes every image, and its target, with its partner.

    Args:
      rng: one key for the whole batch.
      images: float [B,H,W,C].
      targets: float [B,C].
      mixup, cutmix: α of λ ~ Beta(α, α), 0 = off; with both on, each group throws a fair coin.
      group: images that share one λ; a smaller batch is one group, and so is the ragged tail of a larger one.

    Returns:
      images and targets of the same shapes. CutMix weighs targets by the box's actual area.
    """
    if not mixup and not cutmix:
        return images, targets
    size = len(images)
    groups = -(-size // group)
    coin_rng, mixup_rng, cutmix_rng, box_rng = jax.random.split(rng, 4)
    use_cutmix = jax.random.bernoulli(coin_rng, 0.5 if mixup else 1.0, (groups,)) & bool(cutmix)
    lam = jax.random.beta(mixup_rng, mixup, mixup, (groups,)) if mixup else jnp.ones(groups)
    box = jnp.zeros((groups, *images.shape[1:3]), bool)
    if cutmix:
        box = _boxes(box_rng, jax.random.beta(cutmix_rng, cutmix, cutmix, (groups,)), *images.shape[1:3])
        box &= use_cutmix[:, None, None]
        lam = jnp.where(use_cutmix, 1 - box.mean(axis=(1, 2)), lam)
    ours = jnp.where(use_cutmix[:, None, None], ~box, lam[:, None, None])  # [G,H,W] weight of the image itself
    ours = _per_image(ours, size, group)[..., None]
    lam = _per_image(lam, size, group)[:, None]
    mixed = (images * ours + flip(images, group) * (1 - ours)).astype(images.dtype)
    return mixed, targets * lam + flip(targets, group) * (1 - lam)


def flip(x: jax.Array, group: int) -> jax.Array:
    """[B,...] with the order reversed within each group of `group`; the tail is a group of its own."""
    # A reshape and not a gather: groups then stay on their device, where a gather would fetch the global batch.
    whole = len(x) // group * group
    head = x[:whole].reshape(-1, group, *x.shape[1:])[:, ::-1].reshape(whole, *x.shape[1:])
    return jnp.concatenate([head, x[whole:][::-1]]) if whole < len(x) else head


def _per_image(x: jax.Array, size: int, group: int) -> jax.Array:
    """[G,...] -> [B,...]"""
    return jnp.repeat(x, group, axis=0)[:size]


def _boxes(rng: jax.Array, lam: jax.Array, height: int, width: int) -> jax.Array:
    """bool [G,H,W]: boxes of area share 1-λ around a uniform centre, cut at the borders (timm's rand_bbox)."""

    def side(rng, length):
        half = (length * jnp.sqrt(1 - lam)).astype(jnp.int32) // 2
        centre = jax.random.randint(rng, lam.shape, 0, length)
        place = jnp.arange(length)
        return (place >= (centre - half)[:, None]) & (place < (centre + half)[:, None])  # [G,length]

    rows_rng, columns_rng = jax.random.split(rng)
    return side(rows_rng, height)[:, :, None] & side(columns_rng, width)[:, None, :]
