"""What runs on a worker: the preparation, and the watch that tells a preempted run from a finished one."""

import signal
import subprocess
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parent.parent.parent / "launch"
RUN = str(LAUNCH / "run_worker.sh")


@pytest.mark.parametrize("code", [0, 1, 2, 137])
def test_the_exit_code_is_the_commands(code):
    assert subprocess.run(["bash", RUN, "bash", "-c", f"exit {code}"]).returncode == code


def test_arguments_arrive_whole():
    done = subprocess.run(["bash", RUN, "printf", "<%s>", "a b", "$HOME", ""], capture_output=True, text=True)
    assert done.stdout == "<a b><$HOME><>"


@pytest.mark.parametrize(("on_term", "expected"), [("exit 0", 143), ("exit 1", 1)])
def test_told_to_stop_is_not_finished(on_term, expected, tmp_path):
    """The command saves for a while after SIGTERM, and leaves with 0: the watch waits for it and says 143."""
    saved = tmp_path / "saved"
    command = f"trap 'sleep 0.5; touch {saved}; {on_term}' TERM; touch {tmp_path}/up; while true; do sleep 0.05; done"
    process = subprocess.Popen(["bash", RUN, "bash", "-c", command])
    wait_for(tmp_path / "up")
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == expected
    assert saved.exists()


def wait_for(path):
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def setup(world, **env):
    script = (LAUNCH / "setup_worker.sh").read_text()
    return world.run("".join(f"export {name}='{value}'\n" for name, value in env.items()) + script)


def test_setup_makes_an_environment_once(cloud):
    world = cloud()
    for _ in range(2):
        assert setup(world, PACKAGE="lvit_jax[tpu]").returncode == 0
    assert [argv[0] for argv in world.calls("uv")] == ["venv", "pip"]
    assert setup(world, PACKAGE="lvit_jax[tpu]==2").returncode == 0  # another package is installed anew
    assert len(world.calls("uv")) == 4
    assert not world.calls("gcsfuse")


def test_setup_mounts_the_data_bucket(cloud):
    world = cloud()
    assert setup(world, PACKAGE="p", DATA_BUCKET="my-images").returncode == 0
    assert world.calls("gcsfuse") == [["--implicit-dirs", "-o", "ro", "my-images", "/data"]]


def test_setup_needs_a_package(cloud):
    done = setup(cloud())
    assert done.returncode and "PACKAGE" in done.stderr


def test_the_image_has_all_that_is_installed():
    """What the Dockerfile copies is there, and is all of what setup.py packs."""
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    copied = {name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]}
    assert copied == {"setup.py", "README.md", "pyproject.toml", "lvit_jax", "configs", "launch"}
    assert all((LAUNCH.parent / name).exists() for name in copied)
    assert 'ENTRYPOINT ["lvit"]' in lines
    assert not [line for line in lines if line.startswith("USER")]  # the TPU's nodes in /dev are root's
