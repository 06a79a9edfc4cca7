"""`lvit launch --on=local`: the arguments of the processes, and how they are watched and ended."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lvit_jax.bin import launch, launch_local
from lvit_jax.bin.launch_local import Planned

ROOT = Path(__file__).parent.parent.parent
DEMO = ["--on=local", "--config=configs/demo/mae.py"]


def shell(*scripts):
    return [Planned(["bash", "-c", script], {}) for script in scripts]


def run(planned, grace=10.0):
    return launch_local.run(planned, dict(os.environ), grace)


def test_every_process_gets_the_command_and_its_number():
    train = ["lvit", "train", "--config=c", "--workdir=a b", "--distributed"]
    first, second = launch_local.plan(train, 2, 4)
    port = first.command[5].rpartition(":")[2]
    assert 1024 <= int(port) <= 65535
    meet = [*train, f"--coordinator=localhost:{port}", "--processes=2"]
    assert first.command == [*meet, "--process=0"] and second.command == [*meet, "--process=1"]
    assert first.environment["JAX_PLATFORMS"] == "cpu"
    assert first.environment["XLA_FLAGS"].endswith("--xla_force_host_platform_device_count=4")
    assert launch_local.plan(train, 1, None)[0].environment == {}


def test_forced_devices_keep_other_xla_flags(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
    flags = launch_local.plan(["lvit", "train"], 1, 2)[0].environment["XLA_FLAGS"]
    assert flags == "--xla_a=1 --xla_force_host_platform_device_count=2"


def test_the_printed_lines_start_the_processes_as_they_would_be(capsys, tmp_path):
    """A person's shell reads the printed lines as the very arguments and settings that --yes would use."""
    workdir = '--workdir=runs/it\'s "$HOME"'
    assert launch.main([*DEMO, workdir, "--processes=2", "--devices=3", "--config.seed=7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for number, line in enumerate(lines):
        stub = 'lvit() { printf "%s\\0" "$XLA_FLAGS" "$@"; }; '
        done = subprocess.run(["bash", "-c", stub + line], capture_output=True, text=True)
        xla, *argv = done.stdout.split("\0")[:-1]
        assert xla.endswith("device_count=3")
        assert argv[:5] == ["train", DEMO[1], workdir, "--config.seed=7", "--distributed"]
        assert argv[6:] == ["--processes=2", f"--process={number}"]


def test_lines_carry_the_number_of_their_process(capfd):
    assert run(shell("echo out; echo err >&2", "printf 'no end of line'")) == 0
    out, err = capfd.readouterr()
    assert sorted(out.splitlines()) == ["[0] out", "[1] no end of line"]
    assert err.splitlines() == ["[0] err"]


@pytest.mark.parametrize(("end", "code"), [("exit 3", 3), ("kill -9 $$", 137)])
def test_one_that_fails_ends_the_others(end, code, capfd, tmp_path):
    up = tmp_path / "up"
    waits = f"trap 'echo bye; exit 0' TERM; sleep 600 & touch {up}; wait"
    fails = f"while ! [ -e {up} ]; do sleep 0.05; done; {end}"
    assert run(shell("sleep 600", fails, waits)) == code
    out, err = capfd.readouterr()
    assert "process 1 failed" in err and "[2] bye" in out


def test_those_that_do_not_leave_are_killed_after_the_grace(tmp_path):
    began, up = time.monotonic(), tmp_path / "up"
    stays = f"trap '' TERM; touch {up}; while true; do sleep 0.1; done"
    assert run(shell(stays, f"while ! [ -e {up} ]; do sleep 0.05; done; exit 1"), grace=1.0) == 1
    assert time.monotonic() - began >= 1  # and not for ever


def tell_once_there(folder, count, number):
    """Sends this process a signal once so many files lie in a folder: those that wait for it have set their traps."""

    def wait_and_tell():
        deadline = time.monotonic() + 60
        while len(list(folder.iterdir())) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=wait_and_tell).start()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_every_process_once_to_save_and_leave(number, capfd, tmp_path):
    script = f"trap 'echo got TERM; kill $!; exit 0' TERM; sleep 60 & touch {tmp_path}/$$; wait"
    tell_once_there(tmp_path, 2, number)
    assert run(shell(script, script)) == 0
    assert sorted(capfd.readouterr().out.splitlines()) == ["[0] got TERM", "[1] got TERM"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # as it was before


def test_a_second_signal_kills(tmp_path):
    """The second comes when both have noticed the first, which they only write down."""
    up, told = tmp_path / "up", tmp_path / "told"
    up.mkdir(), told.mkdir()
    script = f"trap 'touch {told}/$$' TERM; touch {up}/$$; while true; do sleep 0.1; done"
    for folder in (up, told):
        tell_once_there(folder, 2, signal.SIGTERM)
    assert run(shell(script, script)) == 137


def test_what_training_refuses_is_passed_on(monkeypatch, capfd):
    """The processes are the `lvit` of this very Python, whatever the PATH says."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert run([Planned(["lvit", "train", DEMO[1], "--workdir=w", "--config.seed=many"], {})]) == 2
    assert "[0] error: config key 'seed' wants int" in capfd.readouterr().err


@pytest.mark.slow
def test_two_processes_train_the_demo(tmp_path):
    fields = {"train.steps": 20, "train.batch_size": 32, "eval.batch_size": 32, "log.every_steps": 1}
    fields |= {"optim.warmup_epochs": 0.1}
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    command = [sys.executable, "-m", "lvit_jax.bin.launch", *DEMO, f"--workdir={tmp_path}", "--processes=2"]
    done = subprocess.run([*command, "--devices=2", *overrides, "--yes"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 20
    assert (tmp_path / "checkpoints" / "20").is_dir()
    assert "[0] " in done.stderr
