"""The measure of collapse against numpy, over ragged batches."""

import jax.numpy as jnp
import numpy as np
import pytest

from lvit_jax.evals.spread import effective_rank, make_spread
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


def test_effective_rank_is_that_of_the_singular_values():
    """RankMe's formula on numpy's singular values of the centred features, over ragged batches."""
    features = (np.random.default_rng(2).normal(1, 2, (37, 12)) * np.arange(1, 13)).astype(np.float32)
    unit = features.astype(np.float64) / np.linalg.norm(features, axis=1, keepdims=True)
    values = np.linalg.svd(unit - unit.mean(axis=0), compute_uv=False)
    shares = values / values.sum()
    measured = make_spread(OBJECTIVE)({}, None, batches(features, 8))["effective_rank"]
    assert measured == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)


@pytest.mark.parametrize("rank", [1, 3, 12])
def test_the_effective_rank_counts_directions(rank):
    basis = np.linalg.qr(np.random.default_rng(3).normal(size=(12, 12)))[0][:, :rank]
    assert effective_rank(basis @ basis.T) == pytest.approx(rank)


def test_collapsed_features_have_no_rank_and_a_line_has_one():
    """Rounding in float32 does not pass for directions."""
    rng = np.random.default_rng(4)
    one = np.repeat(rng.normal(size=(1, 64)), 50, axis=0)
    line = rng.normal(size=64) + np.linspace(-1, 1, 50)[:, None] * rng.normal(size=64)
    ranks = [make_spread(OBJECTIVE)({}, None, batches(x.astype(np.float32), 16))["effective_rank"] for x in (one, line)]
    assert ranks[0] == 0.0
    assert 1 <= ranks[1] < 2  # an arc, once its rows have length 1
