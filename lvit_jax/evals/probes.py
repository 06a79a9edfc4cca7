"""Top-1, top-5 and cross-entropy of many probes that read one pass over the images."""

from collections.abc import Callable, Iterable

import jax

from lvit_jax.errors import Stopped
from lvit_jax.evals.classify import counts
from lvit_jax.types import Batch, Objective, TrainState, Tree


def make_probes(objective: Objective) -> Callable[[Tree, TrainState, Iterable[Batch]], dict[str, float]]:
    """(params, state, batches on the mesh) -> {'best_top1', and 'top1_SPOT', 'top5_SPOT' in percent, 'loss_SPOT'}.

    Exact to the last example, as `make_classify`; the logits of `predict` are {spot: [B,C]}.
    """

    @jax.jit
    def count(params: Tree, state: TrainState, batch: Batch) -> dict[str, dict[str, jax.Array]]:
        logits = objective.predict(params, state, batch)["logits"]
        return {name: counts(rows, batch["label"], batch["mask"]) for name, rows in logits.items()}

    def probes(params: Tree, state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
        total = None
        for batch in batches:
            found = count(params, state, batch)
            total = found if total is None else jax.tree.map(jax.numpy.add, total, found)
        sums = {name: jax.tree.map(float, part) for name, part in jax.device_get(total).items()}
        if not all(part["examples"] for part in sums.values()):
            raise Stopped("nothing to evaluate: no image could be read")
        scales = {"top1": 100, "top5": 100, "loss": 1}
        figures = {f"{w}_{n}": s * p[w] / p["examples"] for w, s in scales.items() for n, p in sums.items()}
        return {"best_top1": max(v for k, v in figures.items() if k.startswith("top1")), **figures}

    return probes
