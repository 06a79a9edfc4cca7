"""Top-1, top-5, mean per class and cross-entropy of a classifier, exact to the last example of a padded batch."""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from lvit_jax.errors import Stopped
from lvit_jax.types import Batch, Objective, TrainState, Tree


def make_classify(objective: Objective) -> Callable[[Tree, TrainState, Iterable[Batch]], dict[str, float]]:
    """(params, state, batches on the mesh) -> {'top1', 'top5', 'mean_per_class', 'loss', 'examples', 'classes'}.

    The first three in percent, the loss in nats. 'mean_per_class' is the mean over the classes of the top-1 of their
    examples (scikit-learn's balanced accuracy); classes without examples are left out of it, 'classes' is how many are
    not. Batches carry `mask`: 1 for an example, 0 for padding (or a broken image); sums are global and read once.
    """

    @jax.jit
    def count(params: Tree, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        logits = objective.predict(params, state, batch)["logits"]
        rows = score(logits, batch["label"], batch["mask"])
        sums = {name: row.sum() for name, row in rows.items()}
        for name in ("top1", "examples"):
            sums[f"class_{name}"] = jnp.zeros(logits.shape[1]).at[batch["label"]].add(rows[name])  # [C]
        return sums

    def classify(params: Tree, state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
        total: dict[str, jax.Array] = {}
        for batch in batches:
            counts = count(params, state, batch)
            total = jax.tree.map(jnp.add, total, counts) if total else counts
        sums = jax.device_get(total)
        if not sums["examples"]:
            raise Stopped("nothing to evaluate: no image could be read")
        return _figures(sums)

    return classify


def _figures(sums: dict[str, np.ndarray]) -> dict[str, float]:
    examples, right, of = (sums[name] for name in ("examples", "class_top1", "class_examples"))
    seen = of > 0
    return {
        "top1": float(sums["top1"]) / float(examples) * 100,
        "top5": float(sums["top5"]) / float(examples) * 100,
        "mean_per_class": float(np.mean(right[seen] / of[seen].astype(np.float64))) * 100,
        "loss": float(sums["loss"]) / float(examples),
        "examples": float(examples),
        "classes": float(seen.sum()),
    }


def score(logits: jax.Array, label: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """{'top1', 'top5' (0 or 1), 'loss' in nats, 'examples' (1)}, float32 [B] each; 0 where the mask is.

    Args: logits: [B,C]. label, mask: [B].
    """
    logits, label = logits.astype(jnp.float32), label[:, None]
    true = jnp.take_along_axis(logits, label, axis=1)
    # The rank counts ties against the model, and what is no number: constant logits score 0, not 1, and so do NaN.
    rank = jnp.sum(~(logits < true) & (jnp.arange(logits.shape[1]) != label), axis=1)
    loss = jax.nn.logsumexp(logits, axis=1) - true[:, 0]
    rows = {"top1": rank < 1, "top5": rank < 5, "loss": loss, "examples": jnp.ones_like(loss)}
    return {name: jnp.where(mask > 0, row, 0.0) for name, row in rows.items()}
