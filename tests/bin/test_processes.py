"""Two processes of two forced devices each, over gloo, against one process of four: the same run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from encoders import make_workdir
from PIL import Image
from saved import saved

from lvit_jax.bin.launch_local import free_port
from lvit_jax.training.report import read_metrics

ROOT = Path(__file__).parent.parent.parent
STEPS = 120
LIMIT = 90  # seconds within which the others end when one has died: `distributed.HEARTBEAT` and a margin
FIELDS = {
    "model.width": 128,  # wide enough for fsdp to split its kernels
    "model.depth": 2,
    "model.heads": 2,
    "model.drop_path": 0.1,
    "train.steps": STEPS,
    "train.batch_size": 32,
    "optim.warmup_epochs": 0.0,
    "optim.ema": 0.9,
    "checkpoint.every_steps": 25,
    "log.every_steps": 1,
    "eval.batch_size": 40,  # 360 images: none is left over; test_uneven has others
    "eval.every_epochs": 0.4,
}


def train(workdir, **fields):
    fields = FIELDS | {key.replace("_", ".", 1): value for key, value in fields.items()}
    overrides = [f"--config.{key}={value}" for key, value in fields.items()]
    return ["train", "--config=demo/finetune", f"--workdir={workdir}", *overrides]


def start(command, devices, *place, cwd=ROOT):
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
    }
    main = [sys.executable, "-c", "from lvit_jax.bin.app import lvit; lvit()"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*main, *command, *place], cwd=cwd, env=env, **pipes)


def start_two(command, *, folders=(ROOT, ROOT)):
    place = [f"--coordinator=127.0.0.1:{free_port()}", "--processes=2"]
    return [start(command, 2, *place, f"--process={i}", cwd=folder) for i, folder in enumerate(folders)]


def finish(*processes, code=0):
    """What each process said on stdout and stderr."""
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), said
    return said


def wait_for(step, workdir, processes):
    """Until the run has reported a step; on the pipes there is room for what it says meanwhile."""
    deadline = time.monotonic() + 200
    while not ((workdir / "metrics").exists() and any(r["step"] >= step for r in read_metrics(workdir))):
        assert [process.poll() for process in processes] == [None] * len(processes)
        assert time.monotonic() < deadline
        time.sleep(0.02)


def losses(workdir):
    return [record["loss"] for record in read_metrics(workdir) if "loss" in record]


def measured(workdir):
    """Evaluations by step."""
    return {(r["step"], k): v for r in read_metrics(workdir) for k, v in r.items() if k.startswith("val/")}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """One process with four devices."""
    workdir = tmp_path_factory.mktemp("one")
    finish(start(train(workdir), 4))
    return workdir


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("two")
    said = finish(*start_two(train(workdir)))
    assert f"step {STEPS}/{STEPS}" in said[0][1]
    assert "step" not in said[1][1]  # process 0 alone writes
    return workdir


@pytest.mark.slow
def test_two_processes_do_what_one_does(one, two):
    assert len(losses(one)) == STEPS
    np.testing.assert_allclose(losses(two)[:20], losses(one)[:20], rtol=1e-5)
    ours, theirs = measured(two), measured(one)
    assert ours.keys() == theirs.keys()
    assert {step for step, _ in ours} > {STEPS}
    for key, value in theirs.items():
        assert ours[key] == pytest.approx(value, rel=1e-4)


@pytest.mark.slow
def test_parameters_split_over_two_processes(one, tmp_path):
    """Each parameter lies in parts on both hosts: the losses are the same, and so is what is saved from there."""
    loaded = {"init_encoder": one, "train_steps": 20}
    finish(start(train(tmp_path / "whole", **loaded), 4))
    finish(*start_two(train(tmp_path / "parts", **loaded, mesh_fsdp=4)))
    np.testing.assert_allclose(losses(tmp_path / "parts"), losses(tmp_path / "whole"), rtol=1e-5)
    assert measured(tmp_path / "parts").keys() == measured(tmp_path / "whole").keys()


@pytest.mark.slow
def test_evaluation_counts_every_image_once(two):
    """360 images do not fill the last batch of 100, over two processes or one."""
    command = ["eval_classify", f"--workdir={two}", "--batch_size=100", "--json"]
    (both, silent), (alone,) = finish(*start_two(command)), finish(start(command, 4))
    assert "top1" not in silent[0]
    figures, expected = (json.loads(said.splitlines()[-1]) for said in (both[0], alone[0]))  # gloo prints lines above
    assert figures["examples"] == 360
    assert figures == expected | {"loss": pytest.approx(expected["loss"], rel=1e-6)}


@pytest.mark.slow
def test_neighbours_and_features_on_two_processes(tmp_path):
    """1,437 and 360 images do not fill their last batches; process 0 alone prints and writes; all is as of one."""
    vit = make_workdir(tmp_path / "vit", "vit")
    command = ["eval_probe", f"--workdir={vit}", "--layers=2", "--batch_size=100", "--json"]
    (both, silent), (alone,) = finish(*start_two(command)), finish(start(command, 4))
    assert "rows" not in silent[0]
    assert json.loads(both[0].splitlines()[-1]) == json.loads(alone[0].splitlines()[-1])
    command = ["embed", f"--workdir={vit}", "--batch_size=100", "--json"]
    finish(*start_two([*command, f"--out={tmp_path / 'two.npz'}"]))
    finish(start([*command, f"--out={tmp_path / 'one.npz'}"], 4))
    two, one = (np.load(tmp_path / f"{name}.npz") for name in ("two", "one"))
    np.testing.assert_array_equal(two["name"], one["name"])
    np.testing.assert_allclose(two["feature"], one["feature"], rtol=1e-5, atol=1e-6)
    assert {path.name for path in tmp_path.iterdir()} == {"vit", "two.npz", "one.npz"}


@pytest.mark.slow
def test_a_grid_on_two_processes(tmp_path):
    """Both train and score each cell, process 0 alone writes and prints; it is what one process finds there."""
    fields = {"train_steps": 20, "model_width": 32, "eval_every_epochs": 10.0}
    command = [*train(tmp_path, **fields), "--grid=blr=0.001,0.05", "--json"]
    said = finish(*start_two(command))
    found = json.loads((tmp_path / "grid.json").read_text())
    assert json.loads(said[0][0].splitlines()[-1]) == found and "cells" not in said[1][0]
    assert [row["name"] for row in found["cells"]] == ["blr0.001", "blr0.05"]
    ((alone, _),) = finish(start(["eval_classify", f"--workdir={tmp_path / 'grid' / 'blr0.05'}", "--json"], 4))
    figures = json.loads(alone.splitlines()[-1])
    row = found["cells"][1]
    assert figures["split"] == "tune" and figures["top1"] == row["top1"]
    assert figures["mean_per_class"] == row["mean_per_class"]


@pytest.mark.slow
def test_preempted_and_started_again_equals_never_stopped(two, tmp_path):
    """SIGTERM to one of them: both save the same step and leave with 0; the end is the same bit by bit."""
    processes = start_two(train(tmp_path))
    wait_for(8, tmp_path, processes)
    processes[1].send_signal(signal.SIGTERM)
    said = finish(*processes)
    assert "preempted: saved step" in said[0][1]
    step = int(said[0][1].split("preempted: saved step ")[1].split()[0])
    assert 8 <= step < STEPS
    assert (tmp_path / "checkpoints" / str(step)).exists()
    assert f"going on from step {step}" in finish(*start_two(train(tmp_path)))[0][1]
    ours, theirs = saved(tmp_path, STEPS), saved(two, STEPS)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not np.array_equal(ours[name], theirs[name])] == []


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_killed_and_the_other_ends(tmp_path, victim):
    processes = start_two(train(tmp_path, checkpoint_every_steps=5))
    wait_for(12, tmp_path, processes)
    processes[victim].kill()
    since = time.monotonic()
    assert processes[1 - victim].wait(timeout=LIMIT) != 0
    print(f"process {1 - victim} ended {time.monotonic() - since:.1f} s after process {victim} was killed")
    for process in processes:
        process.communicate()
    assert "going on from step" in finish(*start_two(train(tmp_path)))[0][1]
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 2])
def test_another_number_of_processes_goes_on(one, tmp_path, first):
    """Stopped at a step by its length, gone on by the other number of processes: the same batches, so the losses."""
    begun = {1: lambda c: [start(c, 4)], 2: start_two}
    processes = begun[first](train(tmp_path, checkpoint_every_steps=5, log_every_steps=1))
    wait_for(12, tmp_path, processes)
    for process in processes:
        process.kill()
        process.communicate()
    said = finish(*begun[3 - first](train(tmp_path)))[0][1]
    assert "going on from step" in said
    np.testing.assert_allclose(losses(tmp_path)[:20], losses(one)[:20], rtol=1e-5)


@pytest.mark.slow
def test_one_process_is_preempted_too(tmp_path):
    """A single host joins nobody, but hears of its preemption."""
    process = start(train(tmp_path), 1, f"--coordinator=127.0.0.1:{free_port()}", "--processes=1", "--process=0")
    wait_for(8, tmp_path, [process])
    process.send_signal(signal.SIGTERM)
    assert "preempted: saved step" in finish(process)[0][1]


@pytest.mark.slow
def test_other_images_on_another_host_are_refused(tmp_path):
    for host, count in (("a", 40), ("b", 41)):
        for i in range(count):
            path = tmp_path / host / "images" / str(i % 2) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), i).save(path)
    command = train(tmp_path / "run", **{"data_source": "folder:images", "data_pad": 0})
    said = finish(*start_two(command, folders=(tmp_path / "a", tmp_path / "b")), code=2)
    assert all("data of process 1 is not that of process 0" in errors for _, errors in said)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_workdir_of_each_hosts_own_is_refused(tmp_path):
    for host in ("a", "b"):
        (tmp_path / host).mkdir()
    command = [arg for arg in train("run") if "workdir" not in arg] + ["--workdir=run"]
    said = finish(*start_two(command, folders=(tmp_path / "a", tmp_path / "b")), code=2)
    assert all("process 1 does not see what process 0 writes" in errors for _, errors in said)
    assert not list(tmp_path.glob("*/run/*"))


@pytest.mark.slow
def test_a_truncated_checkpoint_is_set_aside_by_all(two, tmp_path):
    """Both fall back to the same one, and end where the run that was never stopped did."""
    workdir = tmp_path / "run"
    shutil.copytree(two, workdir)
    largest = max((workdir / "checkpoints" / str(STEPS)).rglob("*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-10])
    said = finish(*start_two(train(workdir)))[0][1]
    assert f"checkpoint {STEPS} of" in said and "going on from step 100" in said
    assert (workdir / "unreadable" / str(STEPS)).exists()
    ours, theirs = saved(workdir, STEPS), saved(two, STEPS)
    assert [name for name in theirs if not np.array_equal(ours[name], theirs[name])] == []


def test_a_process_that_does_not_come_is_named(tmp_path):
    place = [f"--coordinator=127.0.0.1:{free_port()}", "--processes=2", "--process=0", "--wait=0.5"]
    ((_, said),) = finish(start(train(tmp_path / "run"), 1, *place), code=1)
    assert said.startswith("error: came 1 of 2 within 0.5 s, missing: 1; run `lvit train --config=demo/finetune")
    assert "--process=1" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()
