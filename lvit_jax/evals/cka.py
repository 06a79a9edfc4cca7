"""How similar layers are: unbiased mini-batch linear CKA (arXiv:2010.15327, as in MAE-Lite's visualize/; recipes 10.1).

Shapes: L layers (of one model, or of several one after another), n images of a mini-batch, T mini-batches.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lvit_jax.errors import Stopped

LEAST = 4  # images of a mini-batch: the unbiased HSIC divides by n - 3


def grams(layers: Sequence[jax.Array], mask: jax.Array) -> jax.Array:
    """Products of the images' features in every layer: [n,N,D] each, whatever N and D, -> float32 [L,n,n].

    The mean over the images is taken off first. The unbiased HSIC does not see it, and float32 keeps the digits that
    differ between images: features of one layer share most of their length.

    Args: mask: float [n], 0 for an image that does not count.
    """

    def gram(x: jax.Array) -> jax.Array:
        x = x.reshape(len(x), -1).astype(jnp.float32)
        x = x - x[:1]  # without rounding where images are alike, so that what is the same for all becomes 0
        x = x - mask @ x / jnp.maximum(mask.sum(), 1)
        return jnp.einsum("id,jd->ij", x, x, precision="highest")

    return jnp.stack([gram(x) for x in layers])


def hsic(grams: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Unbiased HSIC of every pair of layers, averaged over the mini-batches: float64 [L,L] (Song et al., 2012, eq. 5).

    Args: grams: [T,L,n,n]; mask: [T,n], 0 for an image that does not count.

    Raises:
      Stopped: a mini-batch has fewer than `LEAST` images that count.
    """
    total = 0.0
    for batch, counts in zip(grams, mask > 0, strict=True):
        n = int(counts.sum())
        if n < LEAST:
            raise Stopped(f"a mini-batch has {n} readable image(s); CKA needs {LEAST}")
        rows = _centred(batch[:, counts][:, :, counts].astype(np.float64)).reshape(len(batch), -1)
        total = total + rows @ rows.T / (n * (n - 3))
    return total / len(grams)


def _centred(k: np.ndarray) -> np.ndarray:
    """U-centred: what the formula with traces and sums of recipes 10.1 is the inner product of, up to n(n-3)."""
    n = k.shape[-1]
    off = ~np.eye(n, dtype=bool)
    k = k * off
    rows = k.sum(axis=-1)
    whole = rows.sum(axis=-1)[:, None, None] / ((n - 1) * (n - 2))
    return (k - (rows[:, :, None] + rows[:, None, :]) / (n - 2) + whole) * off


def cka(hsic: np.ndarray) -> np.ndarray:
    """[L,L]: HSIC_KL / √(HSIC_KK·HSIC_LL); 1 on the diagonal, NaN where a layer is the same for all images."""
    own = np.sqrt(np.diag(hsic))
    with np.errstate(invalid="ignore", divide="ignore"):
        return hsic / own[:, None] / own[None, :]
