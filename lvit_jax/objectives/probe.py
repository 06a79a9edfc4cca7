"""Linear probes of every layer of a frozen encoder at once, as MAE probes its last (main_linprobe.py; recipes 7)."""

import zlib
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from lvit_jax.errors import InputError
from lvit_jax.models.layers import LayerNorm
from lvit_jax.models.probes import Probe, choose_layers, choose_pools, pooled, whole
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
    probe = Probe(classes, head_std)

    def see(frozen: Tree, images: jax.Array) -> dict[str, jax.Array]:
        return jax.lax.stop_gradient(pooled(whole(encoder, frozen, images), chosen, hows))

    def init(rng: jax.Array, batch: Batch) -> Variables:
        frozen = _frozen(rng, encoder, batch["image"][:1], norm)
        return _variables(rng, probe, see(frozen, batch["image"][:1]), frozen)

    def loss(params: Tree, state: TrainState, batch: Batch, rng: jax.Array):
        del rng  # nothing is drawn: the encoder is seen as in evaluation
        total, hits, stats = 0.0, [], {}
        for name, x in see(state.frozen, batch["image"]).items():
            variables = {"params": params["heads"][name], "batch_stats": state.extra["stats"][name]}
            logits, changed = probe.apply(variables, x, True, mutable=["batch_stats"])
            stats[name] = changed["batch_stats"]
            total += soft_cross_entropy(logits, jax.nn.one_hot(batch["label"], classes))
            hits.append(accuracy(logits, batch["label"]))
        return total, Aux({"best_accuracy": jnp.stack(hits).max()}, {"stats": jax.lax.stop_gradient(stats)})

    def predict(params: Tree, state: TrainState, batch: Batch) -> dict[str, dict[str, jax.Array]]:
        """ "logits": {spot: float32 [B,C]}, by the running statistics."""
        features, heads, stats = see(state.frozen, batch["image"]), params["heads"], state.extra["stats"]
        both = {name: {"params": heads[name], "batch_stats": stats[name]} for name in features}
        return {"logits": {name: probe.apply(both[name], x, False) for name, x in features.items()}}

    return Objective(init, loss, predict)


def _frozen(rng: jax.Array, encoder: nn.Module, images: jax.Array, norm: bool) -> Tree:
    """What loaded weights take the place of."""
    tokens, variables = encoder.init_with_output(rng, images)
    if not norm:
        return {"encoder": variables["params"]}
    last = LayerNorm(jnp.float32, encoder.norm_eps).init(rng, tokens.tokens)
    return {"encoder": variables["params"], "norm": last["params"]}


def _variables(rng: jax.Array, probe: Probe, features: dict[str, jax.Array], frozen: Tree) -> Variables:
    """Fresh probes of features {spot: [B,D]}; each starts the same whichever others there are."""
    made = {
        name: probe.init(jax.random.fold_in(rng, zlib.crc32(name.encode())), x, False) for name, x in features.items()
    }
    heads, stats = ({name: part[kind] for name, part in made.items()} for kind in ("params", "batch_stats"))
    return Variables({"heads": heads}, frozen, {"stats": stats})
