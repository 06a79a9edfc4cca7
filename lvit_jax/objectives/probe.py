"""Linear probes of every layer of a frozen encoder at once, as MAE probes its last (main_linprobe.py; recipes 7)."""

import itertools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from lvit_jax.errors import InputError
from lvit_jax.models.contrastive import BatchNorm
from lvit_jax.models.layers import LayerNorm
from lvit_jax.models.probes import POOLS, choose_layers, choose_pools, pooled, spot, whole
from lvit_jax.objectives.losses import accuracy, soft_cross_entropy
from lvit_jax.types import Aux, Batch, Objective, TrainState, Tree, Variables


def make_probe(
    encoder: nn.Module,
    *,
    classes: int,
    layers: Sequence[int] = (),
    pools: Sequence[str] = (),
    head_std: float = 0.01,
    norm: bool = False,
    cls: bool = True,
) -> Objective:
    """BatchNorm without affine map and a Linear on each chosen layer and pooling: params {heads}, frozen {encoder}.

    The encoder sees a batch once, as in evaluation, and all probes read it. The loss is the sum of theirs, so that each
    has the gradient it would have alone; with LARS, whose rates are a matrix's own, and without a clip over all
    gradients, each trains as if alone. extra: running statistics, PyTorch's (0.1 of each new one), for `predict`.

    Args:
      encoder: whose weights come from init.encoder, never from an initialiser.
      classes: C.
      layers: as `features.layers` counts them, 0 for the patch embedding; () for all.
      pools: "mean", "cls"; () for all there are.
      head_std: of the initial weights.
      norm: the encoder is a classifier's, which norms in its head: frozen then holds {encoder, norm}.
      cls: the encoder has a CLS token.

    Raises:
      InputError: a layer that is not there, "cls" without such a token, a head_std that is not positive.
    """
    if head_std <= 0:
        raise InputError(f"objective.head_std={head_std} must be above 0: LARS moves a matrix by its own norm")
    chosen, hows = choose_layers(layers, encoder.depth + 1), choose_pools(pools, cls)
    batch_norm, fc = BatchNorm(affine=False, eps=1e-6), nn.Dense(classes, kernel_init=nn.initializers.normal(head_std))

    def see(frozen: Tree, images: jax.Array) -> dict[str, jax.Array]:
        return jax.lax.stop_gradient(pooled(whole(encoder, frozen, images), chosen, hows))

    def init(rng: jax.Array, batch: Batch) -> Variables:
        images, rngs = batch["image"][:1], jax.random.split(rng)
        frozen = {"encoder": encoder.init(rngs[0], images)["params"]}
        if norm:
            tokens = encoder.apply({"params": frozen["encoder"]}, images).tokens
            frozen["norm"] = LayerNorm(jnp.float32, encoder.norm_eps).init(rngs[0], tokens)["params"]
        found, heads, stats = see(frozen, images), {}, {}
        for layer, how in itertools.product(chosen, hows):
            name = spot(layer, how)
            # By its spot, not by its place here: a probe starts the same whichever others there are.
            own = jax.random.fold_in(rngs[1], len(POOLS) * layer + POOLS.index(how))
            heads[name] = fc.init(own, found[name])["params"]
            stats[name] = batch_norm.init(own, found[name], False)["batch_stats"]
        return Variables({"heads": heads}, frozen, {"stats": stats})

    def loss(params: Tree, state: TrainState, batch: Batch, rng: jax.Array):
        del rng
        total, hits, stats = 0.0, [], {}
        for name, x in see(state.frozen, batch["image"]).items():
            old = {"batch_stats": state.extra["stats"][name]}
            normed, changed = batch_norm.apply(old, x, True, mutable=["batch_stats"])
            logits, stats[name] = fc.apply({"params": params["heads"][name]}, normed), changed["batch_stats"]
            total += soft_cross_entropy(logits, jax.nn.one_hot(batch["label"], classes))
            hits.append(accuracy(logits, batch["label"]))
        return total, Aux({"best_accuracy": jnp.stack(hits).max()}, {"stats": stats})

    def predict(params: Tree, state: TrainState, batch: Batch) -> dict[str, dict[str, jax.Array]]:
        """ "logits": {spot: float32 [B,C]}, by the running statistics."""
        logits = {}
        for name, x in see(state.frozen, batch["image"]).items():
            normed = batch_norm.apply({"batch_stats": state.extra["stats"][name]}, x, False)
            logits[name] = fc.apply({"params": params["heads"][name]}, normed)
        return {"logits": logits}

    return Objective(init, loss, predict)
