"""Checkpoints and what is read from them: the weights alone, into another model, their hash."""

import json
import os
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy import batches, make_run, values

from lvit_jax.errors import InputError, Stopped
from lvit_jax.training import checkpoint as checkpoint_lib
from lvit_jax.training import mesh as mesh_lib
from lvit_jax.training.checkpoint import (
    Checkpoints,
    load_into,
    load_params,
    restore,
    save_params,
    steps,
)
from lvit_jax.training.loop import fit
from lvit_jax.training.optim import averaged
from lvit_jax.training.step import make_step
from lvit_jax.tree import flatten, tree_hash


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    return workdir, fit(make_run(workdir, ema=0.9, steps=4, save_every=2))


def assert_equal(a, b):
    a, b = flatten(a), flatten(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_the_weights_alone_are_read_as_numpy(trained):
    workdir, state = trained
    averages, params = load_params(workdir), load_params(workdir, ema=False)
    assert all(type(leaf) is np.ndarray for leaf in flatten(averages).values())
    assert_equal(averages, averaged(state.opt_state))
    assert_equal(params, state.params)
    assert np.abs(averages["fc1"]["kernel"] - params["fc1"]["kernel"]).max() > 0


def test_weights_of_a_run_without_an_average_and_of_an_import(tmp_path):
    params = {"encoder": {"block_0": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}}
    save_params(tmp_path, params)
    assert steps(tmp_path) == [0]
    assert_equal(load_params(tmp_path), params)


def test_weights_come_from_the_latest_good_checkpoint(tmp_path, capsys):
    state = fit(make_run(tmp_path, steps=4, save_every=2))
    os.truncate(tmp_path / "checkpoints" / "4" / "params" / "manifest.ocdbt", 5)
    older = load_params(tmp_path)
    assert "checkpoint 4 of" in capsys.readouterr().err
    assert np.abs(older["fc1"]["kernel"] - state.params["fc1"]["kernel"]).max() > 0
    assert steps(tmp_path) == [4, 2]  # reading leaves the folder as it is


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no checkpoint"):
        load_params(tmp_path)


def test_the_average_is_stored_once(trained):
    latest = trained[0] / "checkpoints" / "4"
    assert sorted(path.name for path in latest.iterdir() if path.is_dir()) == ["average", "params", "rest"]
    leaves = json.loads((latest / "rest" / "_METADATA").read_text())["tree_metadata"]
    assert any("'mu', 'fc1'" in name for name in leaves)
    assert not any("'average', 'fc1'" in name for name in leaves)


def test_where_no_checkpoint_is_readable_the_run_stops_and_leaves_them_where_they_are(tmp_path, capsys):
    fit(make_run(tmp_path, steps=4, save_every=2))
    for step in ("2", "4"):
        os.truncate(tmp_path / "checkpoints" / step / "rest" / "manifest.ocdbt", 0)
    for _ in range(2):
        with pytest.raises(Stopped, match=r"no checkpoint is readable; move .*/checkpoints away to start anew"):
            fit(make_run(tmp_path, steps=4, save_every=2))
    assert "checkpoint 4 of" in capsys.readouterr().err
    assert steps(tmp_path) == [4, 2]
    shutil.rmtree(tmp_path / "checkpoints")
    assert int(fit(make_run(tmp_path, steps=4)).step) == 4


def refused(error):
    def load(*_):
        raise KeyError("incompatible handler") from error  # as orbax does, whatever went wrong

    return load


@pytest.mark.parametrize(
    "error", [MemoryError(), PermissionError(13, "no"), ValueError("RESOURCE_EXHAUSTED: no memory"), TypeError("a bug")]
)
def test_an_error_that_is_no_damage_costs_no_checkpoint(trained, monkeypatch, error):
    workdir, state = trained
    monkeypatch.setattr(checkpoint_lib.ocp, "load_checkpointables", refused(error))
    for read in (lambda: restore(workdir, state), lambda: load_params(workdir)):
        with pytest.raises(KeyError) as raised:
            read()
        assert raised.value.__cause__ is error
    assert steps(workdir) == [4, 2]
    assert not (workdir / "unreadable").exists()


DAMAGES = {
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["manifest.ocdbt", "_METADATA", "d/*"])
@pytest.mark.parametrize("item", ["params", "average", "rest"])
def test_damage_to_a_checkpoint_without_a_seal_is_told_by_the_load(trained, tmp_path, capsys, item, file, damage):
    """Killed between its commit and its seal."""
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    latest = tmp_path / "checkpoints" / "4"
    (latest / "sizes.json").unlink()
    DAMAGES[damage](next((latest / item).glob(file)))
    if item == "average":
        load_params(tmp_path)  # falls back too
        assert "checkpoint 4 of" in capsys.readouterr().err
    assert int(restore(tmp_path, trained[1]).step) == 2
    assert "checkpoint 4 of" in capsys.readouterr().err
    assert steps(tmp_path) == [2]
    assert (tmp_path / "unreadable" / "4").is_dir()


@pytest.mark.parametrize("lost", [".", "params", "rest", "params/d"])
def test_a_folder_that_is_gone_from_a_checkpoint_without_a_seal(trained, tmp_path, lost):
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    latest = tmp_path / "checkpoints" / "4"
    (latest / "sizes.json").unlink()
    shutil.rmtree(latest / lost)
    latest.mkdir(exist_ok=True)
    assert int(restore(tmp_path, trained[1]).step) == 2


def test_a_truncated_seal_is_damage_too(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    os.truncate(tmp_path / "checkpoints" / "4" / "sizes.json", 9)
    assert int(restore(tmp_path, trained[1]).step) == 2


def test_a_state_of_another_optimizer_is_refused_by_name(trained):
    workdir, state = trained
    others = [
        (state.replace(extra={"seen": jnp.zeros(3)}), r"rest/extra/seen is \(\) there and \(3,\) here"),
        (state.replace(opt_state=optax.sgd(0.1, 0.9).init(state.params)), "rest/opt_state/0/trace/fc1/bias is absent"),
        (make_run(workdir, steps=4).init(), "average/fc1/bias is .* and absent here"),
        (state.replace(extra={}), "rest/extra/seen is .* there and absent here"),
    ]
    for other, message in others:
        with pytest.raises(InputError, match=message):
            restore(workdir, other)
    assert steps(workdir) == [4, 2]


def test_a_checkpoint_is_sealed_once_it_is_committed_not_at_the_next_save(tmp_path):
    run = make_run(tmp_path)
    seal = tmp_path / "checkpoints" / "1" / "sizes.json"
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, run.init())
        deadline = time.monotonic() + 30
        while not seal.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        sizes = json.loads(seal.read_text())
    assert any(name.startswith("params/d/") for name in sizes)


def test_a_save_does_not_see_the_steps_that_reuse_its_buffers(tmp_path):
    """The state is donated to the next step while the save is still under way."""
    run = make_run(tmp_path, ema=0.9)
    state = run.init()
    step = jax.jit(make_step(run.objective, run.tx, run.seed), donate_argnums=0)
    batch = mesh_lib.put(run.mesh, {"image": next(batches(0))["image"]})
    state, _ = step(state, batch)
    expected = {name: value.copy() for name, value in values(state).items()}
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state)
        for _ in range(50):
            state, _ = step(state, batch)
    restored = values(restore(tmp_path, run.init()))
    for name, value in expected.items():
        np.testing.assert_array_equal(restored[name], value, err_msg=name)


SOURCE = {
    "encoder": {"pos_embed": np.ones((1, 5, 2)), "block_0": {"kernel": np.ones((2, 2))}, "norm": {"scale": np.ones(2)}},
    "decoder": {"kernel": np.ones((2, 3))},
}
TARGET = {
    "encoder": {"pos_embed": jnp.zeros((1, 5, 2)), "block_0": {"kernel": jax.ShapeDtypeStruct((2, 2), jnp.float32)}},
    "head": {"norm": {"scale": jnp.zeros(2)}, "fc": {"kernel": jnp.zeros((2, 4))}},
}
RULES = {"fresh": ("head/fc/.*",), "dropped": ("decoder/.*",), "rename": ((r"encoder/norm/(.*)", r"head/norm/\1"),)}


def test_load_into_takes_what_has_a_place():
    loaded = flatten(load_into(TARGET, SOURCE, **RULES))
    assert set(loaded) == {"encoder/pos_embed", "encoder/block_0/kernel", "head/norm/scale"}
    assert loaded["head/norm/scale"] is SOURCE["encoder"]["norm"]["scale"]


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ("fresh", "parameter head/fc/kernel is not in the loaded weights"),
        ("dropped", "loaded parameter decoder/kernel has no place"),
        ("rename", "parameter head/norm/scale is not in the loaded weights"),
    ],
)
def test_nothing_is_left_fresh_or_dropped_without_a_rule(without, message):
    with pytest.raises(InputError, match=message):
        load_into(TARGET, SOURCE, **RULES | {without: ()})


def test_a_source_leaf_that_is_dropped_leaves_its_target_fresh():
    source = {"head": {"fc": {"kernel": np.ones((2, 9))}}, "encoder": {"kernel": np.ones(3)}}
    target = {"head": {"fc": {"kernel": np.zeros((2, 4))}}, "encoder": {"kernel": np.zeros(3)}}
    assert set(flatten(load_into(target, source, fresh=("head/.*",), dropped=("head/.*",)))) == {"encoder/kernel"}
    with pytest.raises(InputError, match="head/fc/kernel is not in the loaded"):
        load_into(target, source, dropped=("head/.*",))


def test_shapes_that_differ_are_refused_by_name():
    target = {"encoder": {"block_0": {"kernel": np.zeros((2, 3))}}}
    source = {"encoder": {"block_0": {"kernel": np.zeros((2, 2))}}}
    with pytest.raises(InputError, match=r"encoder/block_0/kernel is \(2, 2\) in the loaded weights and \(2, 3\)"):
        load_into(target, source)


def test_position_embeddings_of_another_length_are_resized():
    target = {"encoder": {"pos_embed": np.zeros((1, 10, 2))}}
    source = {"encoder": {"pos_embed": np.ones((1, 5, 2))}}
    loaded = load_into(target, source, resize=lambda name, array, shape: np.full(shape, array.sum()))
    np.testing.assert_array_equal(loaded["encoder"]["pos_embed"], np.full((1, 10, 2), 10.0))
    with pytest.raises(InputError, match=r"\(1, 5, 2\).*\(1, 10, 2\)"):
        load_into(target, source)


def test_a_hash_knows_names_shapes_types_and_bytes_but_no_order():
    tree = {"a": np.arange(4, dtype=np.float32), "b": {"c": np.zeros((2, 2))}}
    same = {"b": {"c": np.zeros((2, 2))}, "a": jnp.arange(4, dtype=jnp.float32)}
    others = [
        {"a": tree["a"], "b": {"d": np.zeros((2, 2))}},
        {"a": tree["a"], "b": {"c": np.zeros((4, 1))}},
        {"a": tree["a"].astype(np.int32), "b": tree["b"]},
        {"a": tree["a"] + 1, "b": tree["b"]},
    ]
    assert tree_hash(tree) == tree_hash(same)
    assert len({tree_hash(t) for t in (tree, *others)}) == 5
