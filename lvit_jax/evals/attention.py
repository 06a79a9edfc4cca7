"""How far and how broadly heads attend (MAE-Lite, visualize/ and VISUAL.md; recipes 10.2, 10.3).

Shapes: B images, W windows, H heads, M queries, N keys, both without CLS.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lvit_jax.evals.places import places
from lvit_jax.models.features import BlockOut, Features, attention_logits

EPSILON = 1e-6  # within the logarithm, as MAE-Lite has it


def attention(block: BlockOut, prefix: int, mask: jax.Array | None = None) -> jax.Array:
    """Attention among patches alone: CLS leaves the logits, then comes the softmax. float32 [B,W,H,M,N].

    Args:
      prefix: tokens before the patches, `Features.prefix`.
      mask: [W,M,N], added to the logits.
    """
    logits = attention_logits(block)[..., prefix:, prefix:]
    return jax.nn.softmax(logits if mask is None else logits + mask[:, None], axis=-1)


def entropy(weights: jax.Array) -> jax.Array:
    """-Σ a·log(a + 1e-6), the natural logarithm, averaged over the queries: [B,W,H,M,N] -> nats [B,H]."""
    return -jnp.sum(weights * jnp.log(weights + EPSILON), axis=-1).mean(axis=(1, 3))


def distance(weights: jax.Array, distances: jax.Array) -> jax.Array:
    """Σ a·distance, averaged over the queries: [B,W,H,M,N] and pixels [W,M,N] -> pixels [B,H]."""
    return jnp.einsum("bwhmn,wmn->bhwm", weights, distances, precision="highest").mean(axis=(2, 3))


def head_figures(encoder: nn.Module, features: Features) -> list[dict[str, jax.Array]]:
    """{"distance" in pixels, "entropy" in nats}: float32 [B,H] each, of every block."""
    found = []
    for block, where in zip(features.blocks, places(encoder, features), strict=True):
        weights = attention(block, features.prefix, where.mask)
        found.append({"distance": distance(weights, where.distances), "entropy": entropy(weights)})
    return found


def query_maps(features: Features, block: int, queries: list[tuple[int, int]]) -> jax.Array:
    """Where chosen patches look: float32 [B,Q,H,rows,columns], each map sums to 1.

    Args: block: counted from 0; queries: (row, column) of patches, of an encoder that attends over the whole image.
    """
    rows, columns = features.grid
    weights = attention(features.blocks[block], features.prefix)[:, 0]  # [B,H,N,N]
    chosen = weights[:, :, jnp.array([row * columns + column for row, column in queries])]
    return chosen.swapaxes(1, 2).reshape(len(chosen), len(queries), -1, rows, columns)
