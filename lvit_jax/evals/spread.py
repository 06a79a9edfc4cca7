"""Whether features have collapsed: their standard deviation on the sphere (SimSiam, arXiv:2011.10566, section 4.1)."""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp

from lvit_jax.errors import Stopped
from lvit_jax.types import Batch, Objective, TrainState, Tree


def make_spread(objective: Objective) -> Callable[[Tree, TrainState, Iterable[Batch]], dict[str, float]]:
    """(params, state, batches) -> {'feature_std'}: 0 where all images have one feature, 1 where they fill the sphere.

    It is the standard deviation over the images of predict's "features" [B,D] (of its "projection", what a contrastive
    loss compares, where it has one: tokens share a mean that hides it), scaled to length 1, averaged over D and
    multiplied by √D. Batches carry `mask`: 1 for an example, 0 for padding.
    """

    @jax.jit
    def moments(params: Tree, state: TrainState, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        out = objective.predict(params, state, batch)
        features = out["projection" if "projection" in out else "features"].astype(jnp.float32)
        unit = features / jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
        rows = unit * batch["mask"][:, None]
        return rows.sum(axis=0), jnp.square(rows).sum(axis=0), batch["mask"].sum()

    def spread(params: Tree, state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
        totals = None
        for batch in batches:
            sums = moments(params, state, batch)
            totals = sums if totals is None else jax.tree.map(jnp.add, totals, sums)
        total, squares, count = jax.device_get(totals)
        if not count:
            raise Stopped("nothing to measure: no image could be read")
        variance = (squares / count - (total / count) ** 2).clip(min=0)
        return {"feature_std": float((variance**0.5).mean() * len(variance) ** 0.5)}

    return spread
