"""What `lvit launch` prints: held against files read by hand, real parsers, and lists of flags and fields."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cases import CASES, CLOUD, CLUSTER, CONFIG, PACKAGE, heredoc, printed

from lvit_jax.bin import launch
from lvit_jax.errors import InputError

HERE = Path(__file__).parent
LAUNCH = HERE.parent.parent / "launch"
VENDORED = {path.stem: json.loads(path.read_text()) for path in (HERE / "vendored").glob("*.json")}
TRAIN = ["train", "--config=configs/pretrain/mae_tiny.py", "--workdir=gs://my-bucket/mae", "--distributed"]
# Everything that a shell, Kubernetes or YAML might take for its own.
NASTY = ['--config.data.source=folder:/my images/it\'s "$HOME" $(touch hacked) `x` $$ %s \\ #1: é', "--config.seed=7"]
NASTY_WORKDIR = '--workdir=gs://my-bucket/a run\'s "$(id)" $HOME'


@pytest.mark.parametrize("case", CASES)
def test_scripts_are_the_ones_that_were_read(case):
    assert printed(*CASES[case]) == (HERE / "golden" / f"{case}.sh").read_text()


@pytest.mark.parametrize("case", CASES)
def test_shellcheck_has_nothing_to_say(case):
    shellcheck(printed(*CASES[case]))


@pytest.mark.parametrize("name", ["setup_worker.sh", "run_worker.sh"])
def test_shellcheck_has_nothing_to_say_of_workers(name):
    shellcheck((LAUNCH / name).read_text())


def test_hadolint_has_nothing_to_say():
    lint("hadolint", (LAUNCH / "Dockerfile").read_text())


def shellcheck(text, severity="style"):
    lint("shellcheck", text, f"--severity={severity}")


def lint(name, text, *flags):
    """Runs a linter of the extra `dev` on a text: it prints what it finds."""
    program = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    done = subprocess.run([program, *flags, "-"], input=text, capture_output=True, text=True)
    assert not done.stdout and not done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(("case", "hosts"), [("queued", 4), ("gce", 4)])
def test_gcloud_takes_every_flag(case, hosts, cloud):
    world = cloud(hosts=hosts)
    assert world.run(printed(*CASES[case])).returncode == 0
    known, seen = VENDORED["gcloud"], set()
    for argv in world.calls("gcloud"):
        command = max((key for key in known if argv[: len(key.split())] == key.split()), key=len)
        flags = {arg[2:].split("=")[0] for arg in argv if arg.startswith("--")}
        assert flags <= {*known[command]["flags"], *known["gcloud wide"]["flags"]}, argv
        seen.add(command)
    assert len(seen) == {"queued": 4, "gce": 8}[case]  # all that the scripts have


def test_gcloud_flags_name_their_source_and_day():
    for command, entry in VENDORED["gcloud"].items():
        assert command == "_" or (entry["source"] and entry["read"] == "2026-11-21")


def manifest(*argv):
    return yaml.safe_load(heredoc(printed(*argv), "LVIT_JOBSET"))


def task(*argv):
    return yaml.safe_load(heredoc(printed(*argv), "LVIT_TASK"))


def places(node, place=""):
    """(place, keys) of every mapping of a manifest; [] for the items of a list."""
    if isinstance(node, dict):
        yield place, set(node)
        for key, value in node.items():
            yield from places(value, f"{place}.{key}".lstrip("."))
    elif isinstance(node, list):
        for value in node:
            yield from places(value, f"{place}[]")


FREE = ("annotations", "nodeSelector", "volumeAttributes", "limits", "requests", "envs")  # keys of the user's own


@pytest.mark.parametrize("case", ["gke", "gke_plain"])
def test_jobset_has_every_field(case):
    check_fields(manifest(*CASES[case]), VENDORED["jobset"])


def test_skypilot_has_every_field():
    check_fields(task(*CASES["skypilot"]), VENDORED["skypilot"])


def check_fields(node, known):
    for place, keys in places(node):
        if not place.endswith(FREE):
            assert keys <= set(known[place]), place


def test_a_jobset_is_one_slice_that_starts_again():
    spec = manifest(*CASES["gke"])["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    assert spec["failurePolicy"]["maxRestarts"] == 100
    assert (job["parallelism"], job["completions"], job["backoffLimit"]) == (4, 4, 0)  # v6e:4x4 is four machines
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": 4}
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
        "cloud.google.com/gke-tpu-topology": "4x4",
        "cloud.google.com/gke-spot": "true",
    }
    assert pod["serviceAccountName"] == "trainer"


def test_without_spot_nothing_asks_for_it():
    selector = manifest(*CASES["gke_plain"])["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert "cloud.google.com/gke-spot" not in selector["nodeSelector"]
    for case in ("queued", "gce"):
        text = printed(*CASES[case], "--cluster.spot=False")
        assert "--spot" not in text and "SPOT" not in text
    assert task(*CASES["skypilot"], "--cluster.spot=False")["resources"]["use_spot"] is False


@pytest.mark.parametrize(("case", "hosts"), [("queued", 4), ("gce", 4)])
def test_every_machine_runs_the_same_command(case, hosts, cloud):
    world = cloud(hosts=hosts)
    assert world.run(printed(*CASES[case])).returncode == 0
    assert world.calls("lvit") == [TRAIN] * hosts
    assert (world.home / ".lvit" / "package").read_text().strip() == PACKAGE.partition("=")[2]


@pytest.mark.parametrize(("case", "hosts"), [("queued", 4), ("gce", 4)])
def test_after_a_preemption_the_slice_is_made_anew_and_the_same_command_runs(case, hosts, cloud):
    world = cloud(hosts=hosts, preemptions=1)
    done = world.run(printed(*CASES[case]))
    assert done.returncode == 0, done.stderr
    groups = [argv for argv in world.calls("gcloud") if {"queued-resources", "managed"} & set(argv)]
    first, second = [argv for argv in groups if "create" in argv]
    assert first == second
    assert len([argv for argv in groups if "delete" in argv]) == 2  # the lost one, and the last at the end
    assert world.state() == "ABSENT"
    assert world.calls("lvit") == [TRAIN] * 2 * hosts


def test_a_refused_run_is_not_started_again(cloud):
    world = cloud(codes=(2,))
    done = world.run(printed(*CASES["queued"]))
    assert done.returncode == 2 and len(world.calls("lvit")) == 4
    assert "costs money" in done.stderr


def test_a_failing_run_is_given_up_after_its_restarts(cloud):
    world = cloud(codes=(1,))
    done = world.run(printed(*CASES["queued"], "--cluster.restarts=2"))
    assert done.returncode == 1 and len(world.calls("lvit")) == 3 * 4
    assert "given up after 2" in done.stderr and "costs money" in done.stderr


@pytest.mark.parametrize(("case", "hosts"), [("queued", 1), ("gce", 1)])
def test_quoting_survives_two_shells(case, hosts, cloud):
    world = cloud(hosts=hosts)
    package = '--cluster.package=lvit_jax[tpu] @ file:///it\'s "$HOME"/x.whl'
    slice_ = {"queued": "--cluster.tpu=v5e:2x4", "gce": "--cluster.tpu=v6e:2x4"}[case]
    argv = [f"--on={case}", CONFIG, NASTY_WORKDIR, *NASTY, *CLOUD[:1], package, slice_, "--cluster.zone=us-west4-a"]
    text = printed(*argv)
    done = world.run(text)
    assert done.returncode == 0, done.stderr
    assert world.calls("lvit") == [["train", CONFIG, NASTY_WORKDIR, *NASTY, "--distributed"]]
    interpreter = f"{world.home}/.lvit/bin/python"
    assert ["pip", "install", "--quiet", "--python", interpreter, package[18:]] in world.calls("uv")
    assert not list(world.home.rglob("hacked")) and not Path("hacked").exists()
    shellcheck(text, "warning")  # below it: that "$HOME" does not expand, as it should


def test_quoting_survives_kubernetes(cloud):
    """Kubernetes replaces $$ by $ and $(NAME) by a variable's value, then starts the container without a shell."""
    text = printed("--on=gke", CONFIG, NASTY_WORKDIR, *NASTY, "--cluster.tpu=v6e:2x2", *CLUSTER)
    container = manifest("--on=gke", CONFIG, NASTY_WORKDIR, *NASTY, "--cluster.tpu=v6e:2x2", *CLUSTER)
    container = container["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    assert "$(" not in container["command"][2] and "$$" not in container["command"][2]
    args = [arg.replace("$$", "\0") for arg in container["args"]]
    assert not any("$" in arg for arg in args)
    world = cloud()
    env = {"PATH": f"{world.home / 'bin'}:/usr/bin:/bin"}
    command = [*container["command"], *(arg.replace("\0", "$") for arg in args)]
    assert subprocess.run(command, env=env).returncode == 0
    assert world.calls("lvit") == [["train", CONFIG, NASTY_WORKDIR, *NASTY, "--distributed"]]
    shellcheck(text, "warning")


def test_quoting_survives_skypilot(cloud):
    argv = ("--on=skypilot", CONFIG, NASTY_WORKDIR, *NASTY, "--cluster.tpu=v6e:2x4", *CLOUD)
    world = cloud()
    assert world.run(task(*argv)["run"]).returncode == 0
    assert world.calls("lvit") == [["train", CONFIG, NASTY_WORKDIR, *NASTY, "--distributed"]]
    shellcheck("#!/bin/bash\n" + task(*argv)["run"], "warning")
    shellcheck(printed(*argv), "warning")


def test_yes_becomes_what_was_printed(cloud):
    """The very process: what ends it reaches the script."""
    world = cloud()
    env = os.environ | {"PATH": f"{world.home / 'bin'}:/usr/bin:/bin"}
    command = [sys.executable, "-m", "lvit_jax.bin.launch", *CASES["gke"], "--yes"]
    assert subprocess.run(command, cwd=LAUNCH.parent, env=env).returncode == 0
    assert [argv[0] for argv in world.calls("kubectl")] == ["get", "apply"]


def test_yes_without_the_program_is_one_line(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="'sky' is not on the PATH"):
        launch.main([*CASES["skypilot"], "--yes"])


def test_the_commands_of_the_readme_print():
    """Every `lvit launch` of launch/README.md is read as it stands; only --yes and where it writes are left out."""
    text = (LAUNCH / "README.md").read_text().replace("\\\n", " ")
    commands = [line.strip() for line in text.splitlines() if line.startswith("    lvit launch")]
    assert len(commands) == 5
    for command in commands:
        argv = shlex.split(command.split(" > ")[0])[2:]
        assert "--distributed" in printed(*(arg for arg in argv if arg != "--yes"))
