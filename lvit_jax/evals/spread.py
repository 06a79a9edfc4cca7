"""Whether features have collapsed: their deviation (SimSiam, arXiv:2011.10566, 4.1) and their effective rank."""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from lvit_jax.errors import Stopped
from lvit_jax.types import Batch, Objective, TrainState, Tree

ROUNDING = 1e-6  # a deviation that float32 may make of rows of length 1


def make_spread(
    objective: Objective, gather: Callable = jax.device_get
) -> Callable[[Tree, TrainState, Iterable[Batch]], dict[str, float]]:
    """(params, state, batches) -> {'feature_std', 'effective_rank'}.

    Both are of predict's "features" [N,D] (of its "projection", what a contrastive loss compares, where it has one:
    tokens share a mean that hides it), every row scaled to length 1. Batches carry `mask`: 1 for an example, 0 for
    padding.

    feature_std is the standard deviation over the images, averaged over D and multiplied by √D: 0 where all images have
    one feature, 1 where they fill the sphere. effective_rank: see there; at most D, and at most N - 1.

    Args: gather: arrays on the mesh -> numpy.
    """

    @jax.jit
    def rows(params: Tree, state: TrainState, batch: Batch) -> tuple[jax.Array, jax.Array]:
        out = objective.predict(params, state, batch)
        features = out["projection" if "projection" in out else "features"].astype(jnp.float32)
        return features / jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), 1e-12), batch["mask"]

    def spread(params: Tree, state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
        total = squares = count = 0.0
        for batch in batches:
            unit, mask = gather(rows(params, state, batch))
            # On the host: of a float32 sum of squares, the root keeps half the digits.
            unit = unit[mask > 0].astype(np.float64)
            total, squares, count = total + unit.sum(axis=0), squares + unit.T @ unit, count + len(unit)
        if not count:
            raise Stopped("nothing to measure: no image could be read")
        covariance = squares / count - np.outer(total, total) / count**2
        deviations = np.diagonal(covariance).clip(min=0) ** 0.5
        std = float(deviations.mean() * len(deviations) ** 0.5)
        return {"feature_std": std, "effective_rank": effective_rank(covariance)}

    return spread


def effective_rank(covariance: np.ndarray) -> float:
    """exp of the entropy of the singular values of centred features, divided by their sum (RankMe, arXiv:2210.02885).

    RankMe takes the features as they are; without their mean, which is most of what they share, it counts the
    directions in which images differ. 0 where they differ in none.

    Args: covariance: [D,D], float64; its eigenvalues are the squares of those singular values, divided by N.
    """
    values = np.linalg.eigvalsh(covariance).clip(min=0) ** 0.5
    values = values[values > ROUNDING]
    shares = values / max(values.sum(), ROUNDING)
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(values) else 0.0
