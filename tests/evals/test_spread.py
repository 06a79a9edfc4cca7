"""The measure of collapse against numpy, over ragged batches."""

import jax.numpy as jnp
import numpy as np
import pytest

from lvit_jax.evals.spread import make_spread
from lvit_jax.types import Objective

OBJECTIVE = Objective(None, None, lambda params, state, batch: {"features": batch["image"]})


def batches(features, size):
    for start in range(0, len(features), size):
        part = features[start : start + size]
        padded = np.concatenate([part, np.full((size - len(part), features.shape[1]), 7.0, np.float32)])
        yield {"image": jnp.asarray(padded), "mask": jnp.asarray(np.arange(size) < len(part), jnp.float32)}


def test_spread_is_that_of_numpy_and_padding_does_not_count():
    features = np.random.default_rng(0).normal(1, 2, (37, 12)).astype(np.float32)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    measured = make_spread(OBJECTIVE)({}, None, batches(features, 8))["feature_std"]
    assert measured == pytest.approx(unit.std(axis=0).mean() * 12**0.5, rel=1e-4)


def test_what_a_contrastive_loss_compares_is_measured_where_there_is_one():
    both = Objective(None, None, lambda p, s, b: {"features": 0 * b["image"] + 1, "projection": b["image"]})
    features = np.random.default_rng(0).normal(0, 1, (16, 12)).astype(np.float32)
    measured = (make_spread(objective)({}, None, batches(features, 8)) for objective in (both, OBJECTIVE))
    assert next(measured) == next(measured)


def test_collapse_is_zero_and_noise_is_one():
    rng = np.random.default_rng(1)
    one = np.repeat(rng.normal(size=(1, 64)).astype(np.float32), 20, axis=0)
    noise = rng.normal(size=(4000, 64)).astype(np.float32)
    assert make_spread(OBJECTIVE)({}, None, batches(one, 8))["feature_std"] < 1e-3
    assert make_spread(OBJECTIVE)({}, None, batches(noise, 512))["feature_std"] == pytest.approx(1, abs=0.02)
