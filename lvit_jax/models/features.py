"""What encoders return, and attention arithmetic on it: views without parameters.

Shapes: B batch, W windows (1 where attention is global), N tokens, M queries, D width, H heads, K head width.
"""

import flax
import jax
import jax.numpy as jnp

from lvit_jax.models.ops import mixture, products


@flax.struct.dataclass
class BlockOut:
    """All that a later method may want of one block; what it does not read costs nothing under `jit`."""

    x: jax.Array  # [B,N,D] residual stream after the block
    normed: jax.Array  # [B,N,D] what attention saw
    attn: jax.Array | None  # [B,N,D] branch outputs before drop-path and residual; None in a partial block
    mlp: jax.Array | None
    q: jax.Array  # [B,W,M,H,K]
    k: jax.Array  # [B,W,N,H,K]
    v: jax.Array  # [B,W,N,H,K]
    middle: jax.Array | None = None  # [B,N,D] residual stream between the two branches
    bias: jax.Array | None = None  # [H,M,N] relative-position bias, without window mask


@flax.struct.dataclass
class Features:
    """The result of every encoder: `prefix` tokens (CLS), then the patches in row-major order."""

    tokens: jax.Array  # [B,N,D], after the final norm if the encoder has one
    blocks: tuple[BlockOut, ...]
    grid: tuple[int, int] = flax.struct.field(pytree_node=False)  # (rows, columns) of the whole image
    prefix: int = flax.struct.field(pytree_node=False, default=1)  # 0 for hierarchical encoders, which have no CLS
    stages: tuple[jax.Array, ...] = ()  # [B,N,D] that each stage of a Swin hands on, after its patch merging

    @property
    def patches(self) -> jax.Array:
        """[B,N,D] without the prefix."""
        return self.tokens[:, self.prefix :]


def layers(features: Features) -> tuple[jax.Array, ...]:
    """What stands behind 0, 1, ... blocks, as the next one sees it (normed), and the final tokens: [B,N,D] each.

    With a final norm these are the 13 layers of MAE-Lite's CKA for a ViT-Tiny (run_vis_cmp_rep.py): layer 0 is the
    patch embedding. Hierarchical encoders change N and D on the way, and the order of tokens may differ.
    """
    return (*(block.normed for block in features.blocks), features.tokens)


def attention_logits(block: BlockOut) -> jax.Array:
    """Q·Kᵀ/√K, bias included, before the softmax: float32 [B,W,H,M,N]. MAE-Lite distils this, not its softmax."""
    logits = relation_logits(block.q, block.k)
    return logits if block.bias is None else logits + block.bias.astype(jnp.float32)


def attend(block: BlockOut, mask: jax.Array | None = None) -> jax.Array:
    """softmax(logits + mask)·V: [B,W,M,H,K] in the type of V; the softmax itself is float32. `mask`: [W,M,N]."""
    logits = attention_logits(block)
    logits = logits if mask is None else logits + mask[:, None]
    return _heads_first(mixture(logits, _heads_first(block.v)))


def relation_logits(a: jax.Array, b: jax.Array) -> jax.Array:
    """a·bᵀ/√K, the relation before its softmax: [B,W,M,H,K] and [B,W,N,H,K] -> float32 [B,W,H,M,N]."""
    # float32 out of the matrix unit: logits reach tens, where bfloat16 keeps two digits.
    return products(_heads_first(a), _heads_first(b)) * a.shape[-1] ** -0.5


def _heads_first(x: jax.Array) -> jax.Array:
    """[B,W,N,H,K] <-> [B,W,H,N,K]"""
    return x.swapaxes(2, 3)
