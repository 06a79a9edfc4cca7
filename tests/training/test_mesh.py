"""The mesh, the batch on it, and rules for the place of each leaf (more devices: test_devices.py)."""

import jax
import numpy as np
import pytest
from toy import make_run

from lvit_jax.errors import InputError
from lvit_jax.training.mesh import check_batch, make_mesh, place, put, shardings


def test_a_mesh_of_more_devices_than_there_are_is_refused():
    with pytest.raises(InputError, match=r"mesh.devices=64.*has \d+ device"):
        make_mesh(64)


def test_a_batch_that_does_not_divide_is_refused_with_the_nearest_that_does():
    mesh = make_mesh(1)
    check_batch(96, mesh, accumulate=3)
    with pytest.raises(InputError, match=r"batch size 100 .* 1 device\(s\) x 3 .*nearest that does is 99"):
        check_batch(100, mesh, accumulate=3)
    with pytest.raises(InputError, match="nearest that does is 3"):
        check_batch(0, mesh, accumulate=3)


def test_put_keeps_rows_and_types():
    rows = {"image": np.arange(12, dtype=np.float32).reshape(4, 3), "label": np.arange(4, dtype=np.int32)}
    batch = put(make_mesh(1), rows)
    for name, value in rows.items():
        np.testing.assert_array_equal(batch[name], value)
        assert batch[name].dtype == value.dtype


def test_rules_hold_for_a_parameter_and_for_its_moments_and_average():
    run = make_run("unused", ema=0.9)
    state = jax.eval_shape(run.init)
    placed = shardings(run.mesh, state, [("fc1/kernel", (None, "data"))])
    split = [s for s in jax.tree.leaves(placed) if s.spec == jax.sharding.PartitionSpec(None, "data")]
    assert len(split) == 5  # the parameter, the teacher's, two moments, the average
    assert placed.params["fc1"]["kernel"] in split
    assert placed.params["fc1"]["bias"].is_fully_replicated
    with pytest.raises(InputError, match="fc9"):
        shardings(run.mesh, state, [("fc9/kernel", (None, "data"))])


def test_place_computes_into_the_mesh():
    mesh = make_mesh(1)
    tree = place(mesh, lambda x: {"a": x + 1}, np.zeros(3, np.float32))
    assert tree["a"].sharding.mesh == mesh
    np.testing.assert_array_equal(tree["a"], np.ones(3))
