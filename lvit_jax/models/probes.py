"""Linear probes, and what probes read: every chosen layer of an encoder, pooled in every chosen way."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from lvit_jax.errors import InputError, unknown
from lvit_jax.models.contrastive import BatchNorm
from lvit_jax.models.features import Features, layers
from lvit_jax.models.heads import pool
from lvit_jax.models.layers import LayerNorm

POOLS = ("mean", "cls")


class Probe(nn.Module):
    """BatchNorm without affine map and a Linear: MAE's linear probe (main_linprobe.py)."""

    classes: int
    std: float  # of the initial weights

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Pooled features [B,D] -> float32 logits [B,C]; by the statistics of the batch in training."""
        normed = BatchNorm(affine=False, eps=1e-6, name="norm")(x, train)
        return nn.Dense(self.classes, kernel_init=nn.initializers.normal(self.std), name="fc")(normed)


def spot(layer: int, how: str) -> str:
    """The name of a layer under a pooling: 'layer_06_cls'. Names sort as their layers do."""
    return f"layer_{layer:02d}_{how}"


def whole(encoder: nn.Module, params: Mapping, images: jax.Array) -> Features:
    """Features of whole images [B,H,W,C] whose tokens are normed, by the encoder or, as in classifiers, behind it.

    Args: params: {"encoder"}, and {"norm"} where the encoder has no final norm and its classifier's head has.
    """
    found = encoder.apply({"params": params["encoder"]}, images)
    if "norm" not in params:
        return found
    norm = LayerNorm(jnp.float32, encoder.norm_eps)
    return found.replace(tokens=norm.apply({"params": params["norm"]}, found.tokens))


def pooled(features: Features, chosen: Sequence[int], hows: Sequence[str]) -> dict[str, jax.Array]:
    """{spot: float32 [B,D]} of Features whose tokens are normed; layers are counted as `features.layers` does."""
    found = layers(features)
    return {spot(i, how): pool(features.replace(tokens=found[i]), how) for i in chosen for how in hows}


def choose_layers(wanted: Sequence[int], count: int) -> tuple[int, ...]:
    """The wanted layers in order; all `count` of them where none is named.

    Raises:
      InputError: a layer that is not there.
    """
    for layer in wanted:
        if not 0 <= layer < count:
            raise InputError(f"layer {layer} does not exist; this encoder has layers 0 to {count - 1}")
    return tuple(sorted(set(wanted))) or tuple(range(count))


def choose_pools(wanted: Sequence[str], cls: bool) -> tuple[str, ...]:
    """The wanted poolings; where none is named, the mean, and CLS of an encoder that has it.

    Raises:
      InputError: an unknown pooling, or "cls" of an encoder without that token.
    """
    for how in wanted:
        if how not in POOLS:
            raise unknown("pool", how, POOLS)
        if how == "cls" and not cls:
            raise InputError("pool='cls', but this encoder has no CLS token; nearest: 'mean'")
    return tuple(how for how in POOLS if how in (wanted or (POOLS if cls else ("mean",))))
