"""Top-1, top-5 and cross-entropy of a classifier, exact to the last example of a padded batch."""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp

from lvit_jax.errors import Stopped
from lvit_jax.types import Batch, Objective, TrainState, Tree


def make_classify(objective: Objective) -> Callable[[Tree, TrainState, Iterable[Batch]], dict[str, float]]:
    """(params, state, batches on the mesh) -> {'top1', 'top5' in percent, 'loss' in nats, 'examples'}.

    Batches carry `mask`: 1 for an example, 0 for padding (or a broken image); sums are global and read once.
    """

    @jax.jit
    def count(params: Tree, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        return counts(objective.predict(params, state, batch)["logits"], batch["label"], batch["mask"])

    def classify(params: Tree, state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
        total: dict[str, jax.Array] = {}
        for batch in batches:
            found = count(params, state, batch)
            total = jax.tree.map(jnp.add, total, found) if total else found
        sums = {name: float(value) for name, value in jax.device_get(total).items()}
        examples = sums.pop("examples")
        if not examples:
            raise Stopped("nothing to evaluate: no image could be read")
        shares = {name: value / examples * (1 if name == "loss" else 100) for name, value in sums.items()}
        return {**shares, "examples": examples}

    return classify


def counts(logits: jax.Array, label: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """Sums over the examples whose mask is not 0: {'top1', 'top5', 'loss', 'examples'}, float32 [] each.

    Args: logits: [B,C]. label, mask: [B].
    """
    logits, label = logits.astype(jnp.float32), label[:, None]
    true = jnp.take_along_axis(logits, label, axis=1)
    # The rank counts ties against the model: constant logits score 0, not 1.
    rank = jnp.sum((logits >= true) & (jnp.arange(logits.shape[1]) != label), axis=1)
    loss = jax.nn.logsumexp(logits, axis=1) - true[:, 0]
    rows = {"top1": rank < 1, "top5": rank < 5, "loss": loss, "examples": jnp.ones_like(loss)}
    return {name: jnp.sum(jnp.where(mask > 0, row, 0.0)) for name, row in rows.items()}
