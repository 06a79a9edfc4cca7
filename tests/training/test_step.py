"""Laws of the step: accumulation equals the big batch, randomness is a function of the step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import batches, make_objective, make_run

from lvit_jax.training.optim import make_tx
from lvit_jax.training.step import make_init, make_step, overlay

SAMPLE = {"image": np.zeros((16, 8), np.float32)}


def start(objective, **kwargs):
    """A state at step 0, a batch, and the transformation."""
    params = objective.init(jax.random.key(0), SAMPLE).params
    settings = {"steps": 10, "steps_per_epoch": 1, "batch_size": 256, "blr": 0.1, "warmup_epochs": 0}
    tx, _ = make_tx(params, **settings, weight_decay=0.05, **kwargs)
    batch = {"image": next(batches(0))["image"]}
    return make_init(objective, tx)(jax.random.key(0), SAMPLE, {}, {}), batch, tx


@pytest.fixture(scope="module")
def quiet():
    """The toy without noise: one update from the whole batch, and from four microbatches."""
    objective = make_objective(noise=0.0)
    # SGD: Adam's first step is the sign of the gradient, which hides its size.
    state, batch, tx = start(objective, name="sgd", ema=0.5)
    return [jax.jit(make_step(objective, tx, seed=1, accumulate=n))(state, batch) for n in (1, 4)]


def test_four_microbatches_equal_one_batch(quiet):
    (whole, whole_metrics), (parts, parts_metrics) = quiet
    assert whole_metrics.keys() == parts_metrics.keys() == {"loss", "error", "grad_norm"}
    for name, value in whole_metrics.items():
        np.testing.assert_allclose(value, parts_metrics[name], rtol=1e-5, err_msg=name)
    for a, b in zip(
        jax.tree.leaves((whole.params, whole.opt_state)), jax.tree.leaves((parts.params, parts.opt_state)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_state_after_a_step(quiet):
    for state, metrics in quiet:
        assert int(state.step) == 1
        assert int(state.extra["seen"]) == 16  # carried through the microbatches
        assert all(value.dtype == jnp.float32 and value.shape == () for value in metrics.values())


def test_randomness_is_a_function_of_seed_and_step():
    objective = make_objective(noise=1.0)
    state, batch, tx = start(objective)
    step = jax.jit(make_step(objective, tx, seed=1))
    once, again = step(state, batch)[1]["loss"], step(state, batch)[1]["loss"]
    later = step(state.replace(step=state.step + 1), batch)[1]["loss"]
    other = jax.jit(make_step(objective, tx, seed=2))(state, batch)[1]["loss"]
    assert once == again
    assert len({float(once), float(later), float(other)}) == 3


def test_microbatches_draw_their_own_randomness():
    objective = make_objective(noise=1.0)
    state, _, tx = start(objective)
    same = {"image": np.ones((16, 8), np.float32)}
    losses = [jax.jit(make_step(objective, tx, seed=1, accumulate=n))(state, same)[1]["loss"] for n in (4, 8)]
    assert losses[0] != losses[1]


def test_loaded_leaves_replace_fresh_ones():
    run = make_run("unused")
    fresh = run.init()
    kernel = np.full((16, 4), 2.0, np.float32)
    bias = np.full(16, 3.0, np.float32)
    init = make_init(run.objective, run.tx)
    teacher = {"teacher": {"fc1": {"bias": bias}}}
    state = init(jax.random.key(3), SAMPLE, {"fc2": {"kernel": kernel}}, teacher)
    np.testing.assert_array_equal(state.params["fc2"]["kernel"], kernel)
    np.testing.assert_array_equal(state.params["fc1"]["kernel"], fresh.params["fc1"]["kernel"])
    np.testing.assert_array_equal(state.frozen["teacher"]["fc1"]["bias"], bias)
    with pytest.raises(KeyError, match="fc3"):
        overlay(fresh.params, {"fc3": kernel})
