"""`kill -9` in the middle of a run, the same command again: all that is saved comes out equal bit by bit."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from saved import saved

from lvit_jax.training.report import read_metrics

ROOT = Path(__file__).parent.parent.parent
STEPS, KILLS = 60, (7, 23, 41)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Eighty coloured images in two classes; five per cent of the files are broken, each in another way."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(80):
        path = root / ("warm", "cold")[i % 2] / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        pixels = rng.integers(0, 120, (24, 20, 3)) + np.array([120, 40, 0] if i % 2 else [0, 40, 120])
        Image.fromarray(pixels.astype(np.uint8)).save(path, quality=90)
    good = (root / "warm" / "0.jpg").read_bytes()
    for i, content in enumerate((b"", b"no image", good[: len(good) // 2], good[:20])):
        (root / "warm" / f"{20 + 2 * i}.jpg").write_bytes(content)
    return root


SIZES = {
    "model.channels": 3,
    "model.image_size": 16,
    "model.patch_size": 4,
    "model.width": 32,
    "model.depth": 2,
    "model.heads": 2,
    "train.batch_size": 16,
    "train.steps": STEPS,
    "checkpoint.every_steps": 5,
    "log.every_steps": 1,
    "eval.batch_size": 8,
    "data.statistics": "imagenet",
    "data.flip": 0.5,
}
# What draws and what remembers: augmentation, mixup, drop-path, a weight average, accumulation; a momentum encoder on
# its schedule, statistics of batch norms.
METHODS = {
    "finetune": {
        "data.pad": 0,
        "data.randaugment": "rand-m9-mstd0.5-inc1",
        "data.erase": 0.25,
        "model.drop_path": 0.1,
        "objective.mixup": 0.2,
        "objective.cutmix": 1.0,
        "optim.ema": 0.9,
        "optim.clip": 1.0,
        "train.accumulate": 2,
    },
    "moco": {"data.solarise_p": "(0.0,0.2)", "objective.hidden": 32, "objective.dim": 16},
}


def command(images, workdir, method):
    fields = SIZES | {"data.source": f"folder:{images}"} | METHODS[method]
    overrides = [f"--config.{key}={value}" for key, value in fields.items()]
    return [sys.executable, "-m", "lvit_jax.bin.train", f"--config=demo/{method}", f"--workdir={workdir}", *overrides]


def start(images, workdir, method, devices):
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
    }
    return subprocess.Popen(command(images, workdir, method), cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)


def kill_after(process, workdir, step):
    """Waits until the run has reported a step, then kills it without any chance to tidy up."""
    while process.poll() is None:
        records = read_metrics(workdir) if (workdir / "metrics").exists() else []
        if any(record["step"] >= step for record in records):
            break
        time.sleep(0.02)
    assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """(method, devices) -> the workdir of a run that was never stopped, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("whole")

    @functools.cache
    def run(method, devices):
        workdir = folder / f"{method}{devices}"
        process = start(images, workdir, method, devices)
        errors = process.communicate()[1]
        assert process.returncode == 0, errors
        return workdir

    return run


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("method", METHODS)
def test_killed_three_times_equals_never_stopped(images, whole, tmp_path, method, devices):
    for step in KILLS:
        kill_after(start(images, tmp_path, method, devices), tmp_path, step)
    last = start(images, tmp_path, method, devices)
    errors = last.communicate()[1]
    assert last.returncode == 0, errors
    assert "going on from step" in errors
    a, b = saved(whole(method, devices), STEPS), saved(tmp_path, STEPS)
    assert a.keys() == b.keys()
    assert [name for name in a if not np.array_equal(a[name], b[name])] == []
    assert max(record.get("broken", 0) for record in read_metrics(tmp_path)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_one_device_and_four_have_the_same_losses(whole, method):
    losses = [[r["loss"] for r in read_metrics(whole(method, n)) if "loss" in r][:20] for n in (1, 4)]
    assert len(losses[0]) == 20
    np.testing.assert_allclose(*losses, rtol=1e-5)
