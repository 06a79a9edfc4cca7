"""Runs of MoCo-v3: on four devices as on one; the demo learns, resumes, and goes on as fine-tuning and export."""

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from lvit_jax.bin import flags
from lvit_jax.build.run import build_run
from lvit_jax.convert.params import from_torch, to_torch
from lvit_jax.convert.record import arch_of
from lvit_jax.errors import InputError
from lvit_jax.models.positions import sincos_moco
from lvit_jax.training.checkpoint import load_params, steps
from lvit_jax.training.loop import fit
from lvit_jax.training.record import read_record, write_record
from lvit_jax.training.report import read_metrics
from lvit_jax.tree import flatten

ROOT = Path(__file__).parent.parent.parent
T = 0.2  # the temperature of the config


@pytest.fixture(scope="module")
def devices(tmp_path_factory):
    """What `moco_devices.py` computes on one and on four devices."""
    folder = tmp_path_factory.mktemp("devices")
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    env["JAX_COMPILATION_CACHE_DIR"] = str(ROOT / ".cache" / "jax")
    program = [sys.executable, str(ROOT / "tests" / "objectives" / "moco_devices.py"), str(folder)]
    subprocess.run(program, env=env, check=True)
    return [dict(np.load(folder / f"{count}.npz")) for count in (1, 4)]


def test_gradients_and_batch_statistics_on_four_devices_are_those_on_one(devices):
    """Global BatchNorm and global negatives: per tensor, 1e-5 of its norm; of means, of their deviations' norm."""
    one, four = devices
    largest = max(np.linalg.norm(leaf) for name, leaf in one.items() if name.startswith("grads"))
    names = [name for name in one if name != "losses"]
    assert any("norm_0.var" in name for name in names) and any("block_0" in name for name in names)
    for name in names:
        # A shift before BatchNorm has no gradient but rounding, which stands beside the largest one.
        floor = 1e-6 * largest if name.startswith("grads") else 0
        scale = one[name.removesuffix("mean") + "var"] ** 0.5 if name.endswith(".mean") else one[name]
        assert np.linalg.norm(four[name] - one[name]) <= 1e-5 * np.linalg.norm(scale) + floor, name


def test_losses_of_twenty_steps_on_four_devices_are_those_on_one(devices):
    one, four = (values["losses"] for values in devices)
    assert len(one) == 20
    np.testing.assert_allclose(four, one, rtol=1e-5)


class Stop(Exception):
    """What kills a run in these tests."""


def served(batches, last=None):
    """step -> the stored batches over and over; a pipeline that dies when asked for batch `last`."""

    def serve(step):
        for number in itertools.count(step):
            if number == last:
                raise Stop
            yield batches[number % len(batches)]

    return serve


STEPS_OF_DEMO = 140
CHANCE = 4 * T * math.log(64)  # two sums of 2T·ln(keys): nothing known of which of the 64 keys is the own one


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo's config in small, as overrides."""
    fields = {
        "data.data_dir": tmp_path_factory.mktemp("tfds"),
        "model.width": 32,
        "model.depth": 2,
        "objective.hidden": 64,
        "objective.dim": 32,
        "optim.warmup_epochs": 0.5,
        "optim.blr": 2e-2,
        "train.steps": STEPS_OF_DEMO,
        "train.batch_size": 64,
        "train.accumulate": 1,
        "checkpoint.every_steps": 50,
        "log.every_steps": 1,
    }
    return [f"--config.{key}={value}" for key, value in fields.items()]


def make_run(name, workdir, overrides):
    """A Run of a config, with its record written."""
    config = flags.check(flags.override(flags.load_config(name), overrides))
    run, record = build_run(config.to_dict(), workdir)
    write_record(workdir, record)
    return run


@pytest.fixture(scope="module")
def whole(demo, tmp_path_factory):
    """A run that was never stopped: its workdir, last state and batches."""
    workdir = tmp_path_factory.mktemp("moco")
    run = make_run("demo/moco", workdir, demo)
    batches = list(itertools.islice(run.batches(0), 40))
    state = fit(run._replace(batches=served(batches)))
    return workdir, state, batches


def test_the_demo_learns_and_does_not_collapse(whole):
    records = [record for record in read_metrics(whole[0]) if "loss" in record]
    assert len(records) == STEPS_OF_DEMO
    assert np.mean([record["loss"] for record in records[-10:]]) < 0.9 * CHANCE
    spread = [value for record in read_metrics(whole[0]) for key, value in record.items() if "feature_std" in key]
    assert spread[-1] > 0.5  # 0 where all images have one projection, 1 where they fill the sphere


def assert_same(a, b):
    """Every saved number, bit by bit."""
    leaves, others = (jax.tree.leaves((s.step, s.params, s.opt_state, s.extra)) for s in (a, b))
    for x, y in zip(leaves, others, strict=True):
        np.testing.assert_array_equal(x, y)


def test_killed_and_resumed_equals_never_stopped(demo, whole, tmp_path):
    """Which is also the same seed twice: the slow copies and the statistics come back with the rest."""
    run = make_run("demo/moco", tmp_path, demo)
    with pytest.raises(Stop):
        fit(run._replace(batches=served(whole[2], last=70)))
    assert steps(tmp_path) == [50]
    resumed = fit(run._replace(batches=served(whole[2])))
    assert_same(resumed, whole[1])
    assert int(resumed.extra["updates"]) == STEPS_OF_DEMO


def test_the_batches_of_a_seed_are_equal_bit_by_bit(demo, whole, tmp_path):
    run = make_run("demo/moco", tmp_path, demo)
    for batch, again in zip(whole[2][7:10], run.batches(7), strict=False):
        np.testing.assert_array_equal(batch["image"], again["image"])


def test_fine_tuning_starts_from_the_run(demo, whole, tmp_path):
    """The heads stay behind, and learned positions start from MoCo-v3's table."""
    sizes = [field for field in demo if ".model." in field or "data_dir" in field]
    run = make_run("demo/finetune", tmp_path, [*sizes, f"--config.init.encoder={whole[0]}", "--config.data.limit=100"])
    ours, theirs = flatten(run.init().params["encoder"]), flatten(whole[1].params["encoder"])
    np.testing.assert_array_equal(ours.pop("pos_embed")[0], sincos_moco(32, (4, 4)))
    assert ours.keys() == {name for name in theirs if not name.startswith("norm/")}
    for name, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[name])


def test_another_fixed_layout_is_refused(demo, whole, tmp_path):
    sizes = [field for field in demo if ".model." in field or "data_dir" in field]
    fields = [
        *sizes,
        f"--config.init.encoder={whole[0]}",
        "--config.model.positions=sincos",
        "--config.optim.no_decay=()",
    ]
    with pytest.raises(InputError, match="has positions 'sincos_moco' and this model 'sincos'; set"):
        make_run("demo/finetune", tmp_path, fields)


def test_an_export_holds_mocos_table(whole):
    params = load_params(whole[0])
    arch = arch_of(read_record(whole[0]), params, decoder=False)
    weights = to_torch(params, arch, "mae")
    np.testing.assert_array_equal(weights["pos_embed"][0], sincos_moco(32, (4, 4)))
    back, read = from_torch(weights, arch._replace(positions="sincos"), "mae", "x")
    assert read.positions == "sincos_moco" and "pos_embed" not in back["encoder"]
