"""The same run on one and on four (forced host) devices, across them, and killed with SIGKILL: in subprocesses."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lvit_jax.training.report import read_metrics

TOY = Path(__file__).parent / "toy.py"
ENV = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=16"}


def command(workdir, *options):
    return [sys.executable, str(TOY), str(workdir), *map(str, options)]


def run(workdir, *options):
    """Runs the toy to its end; its final values and what it said."""
    done = subprocess.run(command(workdir, *options), env=ENV, capture_output=True, text=True, check=True)
    return dict(np.load(workdir / "final.npz")), done


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def finals(tmp_path_factory):
    """20 steps on one and on four devices: {devices: (workdir, final values)}."""
    results = {}
    for devices in (1, 4):
        workdir = tmp_path_factory.mktemp(f"on{devices}")
        final, done = run(workdir, "--devices", devices, "--steps", 20, "--accumulate", 2)
        assert f'"devices": {devices}' in done.stdout
        results[devices] = workdir, final
    return results


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """Four steps on eight devices: workdir and final values."""
    workdir = tmp_path_factory.mktemp("on8")
    return workdir, run(workdir, "--devices", 8, "--steps", 4)[0]


def test_losses_on_four_devices_are_those_on_one(finals):
    losses = [np.array([record["loss"] for record in read_metrics(finals[n][0])]) for n in (1, 4)]
    assert len(losses[0]) == 20
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize(("first", "then"), [(1, 4), (4, 1)])
def test_a_run_goes_on_on_another_number_of_devices(finals, tmp_path, first, then):
    """Saved on `first` devices after 20 steps of 20; restored on `then`: every number as it was."""
    workdir = tmp_path / "run"
    os.symlink(finals[first][0], workdir)
    before = finals[first][1]
    final, done = run(workdir, "--devices", then, "--steps", 20, "--accumulate", 2)
    assert "finished at step 20" in done.stderr
    assert f'"devices": {then}' in done.stdout
    assert_equal(final, before)


@pytest.mark.parametrize("then", [4, 1, 16])
def test_a_checkpoint_of_eight_devices(eight, tmp_path, then):
    """A larger or smaller slice than the one that was lost goes on from its checkpoint."""
    workdir = tmp_path / "run"
    os.symlink(eight[0], workdir)
    final, done = run(workdir, "--devices", then, "--steps", 4)
    assert f'"devices": {then}' in done.stdout
    assert_equal(final, eight[1])


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4])
def test_killed_three_times_equals_never_stopped(finals, tmp_path, devices):
    options = ("--devices", devices, "--steps", 20, "--accumulate", 2)
    for step in (3, 9, 14):
        _kill_at(step, command(tmp_path, *options, "--slow"), tmp_path)
    final, done = run(tmp_path, *options)
    assert "going on from step" in done.stderr
    assert_equal(final, finals[devices][1])


def _kill_at(step, arguments, workdir):
    """Starts a program and sends SIGKILL as soon as its metrics reach `step`."""
    process = subprocess.Popen(arguments, env=ENV, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if line.startswith(f"step {step}/"):
            break
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()
    assert read_metrics(workdir)[-1]["step"] >= step
