"""What TinyMIM compares (recipes 4.6): views of one block of the teacher and of the student's last block."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from lvit_jax.models.features import BlockOut, Features, relation_logits

RELATIONS = tuple(a + b for a in "qkv" for b in "qkv")  # "qk": each query's products with all keys
# "output": what the model returns, after its final norm; "block": its residual stream after a block, which is the FFN
# after the residual; "mlp" and "attn": the branches before it; "attn_residual": the stream between the two.
FEATURES = ("output", "block", "mlp", "attn", "attn_residual", "q", "k", "v")


def relation_views(block: BlockOut, names: Sequence[str]) -> dict[str, jax.Array]:
    """{name of `RELATIONS`: float32 [B,W,H,M,N]}, before the softmax; CLS is a query and a key like all others."""
    return {name: relation_logits(getattr(block, name[0]), getattr(block, name[1])) for name in names}


def feature_views(
    seen: Features, layer: int, names: Sequence[str], keep: jax.Array | None = None
) -> dict[str, jax.Array]:
    """{name of `FEATURES`: float32 [B,N,D]} at a layer counted from 1.

    Args:
      keep: int32 [B,K]: only CLS and these patches, [B,1+K,D].
    """
    block = seen.blocks[layer - 1]

    def view(name):
        if name == "output":
            return seen.tokens
        if name == "block":
            return block.x
        if name == "attn_residual":
            return block.middle
        x = getattr(block, name)
        return x if x.ndim == 3 else x[:, 0].reshape(*x[:, 0].shape[:2], -1)  # q, k, v: [B,1,N,H,K], heads side by side

    views = {name: view(name).astype(jnp.float32) for name in names}
    return views if keep is None else {name: _kept(x, keep, axis=1) for name, x in views.items()}


def keep_tokens(block: BlockOut, keep: jax.Array | None) -> BlockOut:
    """`block` with the queries, keys and values of CLS and of the patches `keep` [B,K] alone: [B,W,1+K,H,K]."""
    if keep is None:
        return block
    keep = keep[:, None]
    return block.replace(**{name: _kept(getattr(block, name), keep, axis=2) for name in "qkv"})


def whiten(x: jax.Array, eps: float = 1e-6) -> jax.Array:
    """LN over the last axis without scale and bias."""
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + eps)


def _kept(x: jax.Array, keep: jax.Array, axis: int) -> jax.Array:
    """CLS, then the patches `keep`, along an axis of tokens that begins with CLS."""
    indices = jnp.concatenate([jnp.zeros_like(keep[..., :1]), keep + 1], axis=-1)
    return jnp.take_along_axis(x, indices.reshape(indices.shape + (1,) * (x.ndim - axis - 1)), axis=axis)
