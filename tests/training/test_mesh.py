"""The mesh, the batch on it, and rules for the place of each leaf (more devices: test_devices.py)."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest
from toy import make_run

from lvit_jax.errors import InputError
from lvit_jax.training.mesh import check_batch, make_mesh, place, put, shardings, spread


def test_a_mesh_of_more_devices_than_there_are_is_refused():
    with pytest.raises(InputError, match=r"mesh.devices=64.*has \d+ device"):
        make_mesh(64)


@dataclass(frozen=True)
class Device:
    """What `make_mesh` reads of a device of a pod of several slices."""

    id: int
    slice_index: int = 0
    platform: str = "cpu"
    device_kind: str = "cpu"
    process_index: int = 0


def test_slices_lie_along_data_and_none_is_within_fsdp():
    pod = [Device(i, slice_index=i % 2) for i in range(8)]  # in whatever order they come
    mesh = make_mesh(fsdp=2, available=pod)
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2}
    assert [[d.slice_index for d in row] for row in mesh.devices] == [[0, 0], [0, 0], [1, 1], [1, 1]]
    assert {d.id for d in mesh.devices.flat} == set(range(8))


def test_the_rows_of_a_batch_lie_in_the_order_of_the_processes():
    """On a real slice neighbours are not numbered by host: these are the hosts of libtpu's v5e:4x4."""
    hosts = [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3]
    pod = [Device(i, process_index=host) for i, host in enumerate(hosts)]
    for fsdp in (1, 4, 16):
        assert [d.process_index for d in make_mesh(fsdp=fsdp, available=pod).devices.flat] == sorted(hosts)


@pytest.mark.parametrize(
    ("devices", "fsdp", "slices", "words"),
    [
        (None, 3, 1, ["fsdp=3", "8 device", "nearest: 2"]),
        (6, 4, 1, ["fsdp=4", "6 device", "nearest: 3"]),
        (None, 8, 2, ["fsdp=8", "4 device", "nearest: 4"]),
        (5, 1, 2, ["devices=5", "unevenly", "all 8"]),
    ],
)
def test_meshes_that_do_not_divide_are_refused_with_the_nearest_that_does(devices, fsdp, slices, words):
    pod = [Device(i, slice_index=i * slices // 8) for i in range(8)]
    with pytest.raises(InputError) as error:
        make_mesh(devices, fsdp, pod)
    assert all(word in str(error.value) for word in words), error.value


def test_the_longest_dimension_that_divides_is_split_and_small_leaves_stay_whole():
    mesh = jax.sharding.AbstractMesh((2, 4), ("data", "fsdp"))
    assert spread(mesh, (1024, 4096)) == (None, "fsdp")  # mlp/fc1
    assert spread(mesh, (4096, 1024)) == ("fsdp",)  # mlp/fc2
    assert spread(mesh, (1024, 1024)) == (None, "fsdp")  # attn/proj: the output of equals
    assert spread(mesh, (14, 14, 3, 1280)) == (None, None, None, "fsdp")  # patches of ViT-H
    assert spread(mesh, (46, 1002)) == ()  # nothing divides
    assert spread(mesh, (64, 64)) == spread(mesh, (1 << 20,)) == ()
    assert spread(jax.sharding.AbstractMesh((8, 1), ("data", "fsdp")), (1024, 4096)) == ()


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


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (("fc9/kernel", (None, "data")), ["fc9/kernel", "matches no"]),
        (("fc1/kernel", (None, "dat")), ["'dat'", "did you mean 'data'"]),
        (("fc1/bias", (None, "fsdp")), ["fc1/bias", "(16,)", "2 dimensions"]),
        (("fc1/kernel", ("fsdp", "fsdp")), ["fc1/kernel", "one axis"]),
        (("fc1/kernel", "fsdp"), ["a rule is"]),
        (("fc1/kernel",), ["a rule is"]),
    ],
)
def test_rules_that_do_not_fit_say_why(rule, words):
    run = make_run("unused")
    with pytest.raises(InputError) as error:
        shardings(run.mesh, jax.eval_shape(run.init), [rule])
    assert all(word in str(error.value) for word in words), error.value


def test_place_computes_into_the_mesh():
    mesh = make_mesh(1)
    tree = place(mesh, lambda x: {"a": x + 1}, np.zeros(3, np.float32))
    assert tree["a"].sharding.mesh == mesh
    np.testing.assert_array_equal(tree["a"], np.ones(3))
