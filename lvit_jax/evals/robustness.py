"""How a classifier fares on other images than it was trained for: restricted top-1, sets of answers, corruptions."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lvit_jax.evals.benchmarks import CORRUPTIONS, SEVERITIES
from lvit_jax.types import Batch, Objective, TrainState, Tree

Errors = Mapping[tuple[str, int], float]  # (corruption, severity) -> top-1 error in percent


def make_count(objective: Objective) -> Callable[..., dict[str, jax.Array]]:
    """(params, state, batch, answers, allowed) -> {'right', 'examples', 'unlabelled'}: counts over a batch, int32 [].

    answers: int32 [L,K], row l holds the outputs that are right answers to the batch's label l, filled up with -1.
    allowed: bool [C], the outputs that may be answered; the others are as if the model did not have them.

    An example is right if the greatest of the allowed logits is that of a right answer (a tie with another counts
    against the model). Without a right answer it is left out (ReaL, arXiv:2006.07159), and so is padding (`mask` 0).
    """

    @jax.jit
    def count(params: Tree, state: TrainState, batch: Batch, answers: jax.Array, allowed: jax.Array):
        logits = objective.predict(params, state, batch)["logits"].astype(jnp.float32)  # [B,C]
        sets = answers[batch["label"]]  # [B,K]
        right = jnp.any(sets[:, :, None] == jnp.arange(logits.shape[1]), axis=1) & allowed  # [B,C]
        best = jnp.max(jnp.where(right, logits, -jnp.inf), axis=1)
        other = jnp.max(jnp.where(allowed & ~right, logits, -jnp.inf), axis=1)
        there, labelled = batch["mask"] > 0, jnp.any(right, axis=1)
        rows = {
            "right": there & labelled & (best > other),
            "examples": there & labelled,
            "unlabelled": there & ~labelled,
        }
        return {name: jnp.sum(row, dtype=jnp.int32) for name, row in rows.items()}

    return count


def corruption_figures(errors: Errors) -> dict[str, Any]:
    """{'mean_error', 'corruptions': {name: mean over its severities}, 'errors': {name: {severity: error}}}, percent.

    'mean_error' is the mean over corruptions of the means over severities, not divided by anybody's errors.
    """
    table: dict[str, dict[str, float]] = {}
    for (corruption, severity), error in errors.items():
        table.setdefault(corruption, {})[str(severity)] = error
    means = {name: float(np.mean(list(row.values()))) for name, row in table.items()}
    return {"mean_error": float(np.mean(list(means.values()))), "corruptions": means, "errors": table}


def mean_corruption_error(errors: Errors) -> dict[str, Any]:
    """ImageNet-C's {'mCE', 'CE': {corruption: its error over AlexNet's}}, in percent (arXiv:1903.12261, section 4).

    Where errors are missing there is no mCE, but {'mCE': None, 'missing': [...]}: a corruption, or 'fog 3', one
    severity of it.
    """
    gone = missing(errors)
    if gone:
        return {"mCE": None, "missing": gone}
    ratios = {
        name: 100 * sum(errors[name, s] / 100 for s in SEVERITIES) / (len(SEVERITIES) * corruption.alexnet)
        for name, corruption in CORRUPTIONS.items()
    }
    return {"mCE": float(np.mean(list(ratios.values()))), "CE": ratios}


def missing(errors: Errors) -> list[str]:
    """What of the 15 corruptions at 5 severities has no error."""
    gone = []
    for name in CORRUPTIONS:
        absent = [s for s in SEVERITIES if (name, s) not in errors]
        gone += [name] if len(absent) == len(SEVERITIES) else [f"{name} {s}" for s in absent]
    return gone
