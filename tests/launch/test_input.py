"""Bad input to `lvit launch`: one line that names the value and the nearest valid one, exit code 2, nothing written."""

import subprocess
import sys
from pathlib import Path

import pytest
from cases import CASES, CLOUD, CONFIG, WORKDIR

from lvit_jax.bin import launch
from lvit_jax.bin.launch_tpu import GENERATIONS, read_slice
from lvit_jax.errors import InputError

ROOT = Path(__file__).parent.parent.parent
QUEUED = CASES["queued"]
LOCAL = ("--on=local", "--config=configs/demo/mae.py", "--workdir=w")


def replaced(flag, *more):
    """The queued launch with one flag in the place of that of the same name."""
    return (*(arg for arg in QUEUED if arg.split("=")[0] != flag.split("=")[0]), flag, *more)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (replaced("--on=queue"), ("'queue'", "'queued'", "gce, gke, local")),
        (replaced("--on=k8s"), ("'k8s'", "skypilot")),
        (replaced("--workdir=runs/x"), ("runs/x", "gs://")),
        (replaced("--cluster.tpu=v5e:4x5"), ("'4x5'", "'v5e:4x4'", "8x16")),
        (replaced("--cluster.tpu=v5e:8x4"), ("'8x4'", "'v5e:4x8'")),
        (replaced("--cluster.tpu=v5p:4x4"), ("'4x4'", "'v5p:2x2x4'")),
        (replaced("--cluster.tpu=v5e:axb"), ("'axb'", "v5e")),
        (replaced("--cluster.tpu=v5:4x4"), ("'v5'", "v5e")),
        (replaced("--cluster.tpu=v5litepod-16"), ("v5litepod-16", "'v5e:4x4'")),
        (replaced("--cluster.tpu=v4-8"), ("v4-8", "'v4:2x2x1'")),
        (replaced("--cluster.tpu=16"), ("'16'", "v5e:4x4")),
        (replaced("--cluster.tpu=tpu7x:2x2x1"), ("tpu7x:2x2x1", "gce, gke")),
        (replaced("--on=gce"), ("v5e:4x4", "v5p, v6e, tpu7x", "queued, gke, skypilot")),
        (replaced("--cluster.tpu=v5e:4x4", "--config.mesh.devices=8"), ("mesh.devices=8", "16")),
        (replaced("--cluster.tpu=v5e:16x16", "--config.train.batch_size=1000"), ("1000", "train.batch_size", "1024")),
        (replaced("--cluster.tpu=v5e:4x4", "--config.eval.batch_size=100"), ("eval.batch_size=100", "96")),
        (replaced("--cluster.name=Lvit_1"), ("Lvit_1", "small letters")),
        (replaced("--cluster.name=abcdefghijklmnopqrstuvwxyz"), ("abcdefghijklmnopqrstuvwxyz", "up to 24")),
        (replaced("--cluster.zone=nowhere"), ("'nowhere'", "'us-west4-a'")),
        (replaced("--cluster.zone=us-west4"), ("'us-west4'", "'us-west4-a'")),
        (replaced("--cluster.project=My Project!"), ("'My Project!'", "'my-project'")),
        (replaced("--cluster.data_bucket=gs://my-images"), ("'gs://my-images'", "without gs://")),
        (replaced("--cluster.package= "), ("cluster.package=' '", "git+https")),
        (replaced("--workdir=gs://"), ("--workdir=gs://", "gs://BUCKET/FOLDER")),
        (replaced("--workdir=gs://my-bucket"), ("--workdir=gs://my-bucket:", "gs://BUCKET/FOLDER")),
        (replaced("--workdir=gs://B_ad/m"), ("gs://B_ad/m", "gs://BUCKET/FOLDER")),
        (replaced("--config.mesh.fsdp=3"), ("mesh.fsdp=3", "16 devices", "nearest: 2")),
        (replaced("--config=configs/pretrain/d2_tiny.py"), ("'d2'", "--config.init.teacher=WORKDIR")),
        ((*CASES["gke"], "--cluster.image=a b"), ("'a b'", "cluster.image", "lvit:1")),
        ((*CASES["gke"], "--cluster.service_account=X Y"), ("'X Y'", "'trainer'")),
        (replaced("--cluster.restarts=-1"), ("restarts", "-1", "0")),
        (replaced("--cluster.restarts=many"), ("restarts", "int", "many")),
        (replaced("--cluster.zon=x"), ("'zon'", "'zone'")),
        (replaced("--cluster.zone"), ("--cluster.zone=VALUE",)),
        (replaced("--cluster.zone="), ("--cluster.zone=None",)),
        (replaced("--cluster=configs/clustr.py"), ("clustr.py",)),
        (replaced("--processes=2"), ("--processes", "local")),
        (replaced("--workdir=gs://b/a\nb"), ("control character",)),
        (replaced("--yess"), ("--yess", "--yes")),
        (replaced("--config=configs/pretrain/mae_tin.py"), ("mae_tin.py", "mae_tiny.py")),
        (("--on=gke", CONFIG, WORKDIR, "--cluster.tpu=v6e:4x4"), ("gke", "cluster.image")),
        (("--on=queued", CONFIG, WORKDIR, *CLOUD), ("cluster.tpu", "v5e:4x4")),
        (("--on=queued", CONFIG, WORKDIR, *CLOUD, "--cluster.tpu=v5e:4x4"), ("cluster.zone",)),
        ((CONFIG, WORKDIR), ("--on",)),
        ((*LOCAL, "--processes=0"), ("--processes=0", "1")),
        ((*LOCAL, "--devices=0"), ("--devices=0", "1")),
        ((*LOCAL, "--cluster.tpu=v5e:4x4"), ("--cluster.tpu", "--processes")),
    ],
)
def test_bad_input_is_one_line_with_the_nearest_value(argv, words, capsys):
    with pytest.raises(InputError) as error:
        launch.main(argv)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    "flag",
    [
        "--cluster.name=abcdefghijklmnopqrstuvwx",
        "--cluster.project=example.org:my-project",
        "--cluster.zone=northamerica-northeast1-c",
        "--cluster.data_bucket=images.example.org",
        "--workdir=gs://my_bucket.1/a b/ü",
    ],
)
def test_what_google_takes_is_taken(flag, capsys):
    assert launch.main(replaced(flag)) == 0
    assert "lvit train" in capsys.readouterr().out


def test_a_config_that_the_workers_do_not_have_is_refused(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from lvit_jax.configs.pretrain.mae_tiny import get_config\n")
    with pytest.raises(InputError, match="the workers do not have"):
        launch.main(replaced(f"--config={path}"))


def test_a_cluster_file_of_ones_own(tmp_path, capsys):
    path = tmp_path / "mine.py"
    fields = {"tpu": "v6e:2x4", "project": "my-project", "zone": "us-east5-a", "package": "lvit_jax[tpu]"}
    path.write_text(
        "from lvit_jax.configs import cluster\n"
        f"def get_config():\n    config = cluster.get_config()\n    config.update({fields})\n    return config\n"
    )
    assert launch.main(["--on=queued", CONFIG, WORKDIR, f"--cluster={path}", "--cluster.name=mine"]) == 0
    out = capsys.readouterr().out
    assert "--accelerator-type=v6e-8" in out and "NAME=mine-v6e-2x4-spot" in out


def test_it_is_said_at_once_with_exit_code_2_and_nothing_is_written(tmp_path):
    heavy = "sys.modules['jax'] = sys.modules['tensorflow'] = None"  # to import one of them would be an error
    code = f"import sys; {heavy}; from lvit_jax.bin import app, launch; sys.exit(app.run(launch.main))"
    command = [sys.executable, "-c", code, *LOCAL, "--processes=0", "--yes"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout
    assert not list(tmp_path.iterdir())


# From Google's pages on each generation: topology, chips, machines, accelerator type, machine type.
SLICES = {
    "v2:2x2": (4, 1, "v2-8", None),
    "v3:4x4": (16, 4, "v3-32", None),
    "v3:8x8": (64, 16, "v3-128", None),
    "v4:2x2x1": (4, 1, "v4-8", "ct4p-hightpu-4t"),
    "v4:4x4x4": (64, 16, "v4-128", "ct4p-hightpu-4t"),
    "v5e:1x1": (1, 1, "v5litepod-1", "ct5lp-hightpu-1t"),
    "v5e:2x4": (8, 1, "v5litepod-8", "ct5lp-hightpu-8t"),
    "v5e:16x16": (256, 64, "v5litepod-256", "ct5lp-hightpu-4t"),
    "v5p:2x2x2": (8, 2, "v5p-16", "ct5p-hightpu-4t"),
    "v5p:8x8x8": (512, 128, "v5p-1024", "ct5p-hightpu-4t"),
    "v6e:2x4": (8, 1, "v6e-8", "ct6e-standard-8t"),
    "v6e:4x8": (32, 8, "v6e-32", "ct6e-standard-4t"),
    "tpu7x:4x4x4": (64, 16, "tpu7x-128", "tpu7x-standard-4t"),
}


@pytest.mark.parametrize("name", SLICES)
def test_slices_are_those_of_googles_pages(name):
    chips, hosts, accelerator, machine = SLICES[name]
    found = read_slice(name)
    assert (found.chips, found.hosts, found.accelerator_type) == (chips, hosts, accelerator)
    assert found.hosts * found.chips_per_host == chips
    assert machine is None or found.machine_type == machine


def test_chips_with_two_devices():
    """v2, v3 and TPU7x show each core of a chip as a device; v4 and v5p join the two (megacore)."""
    assert {name for name, kind in GENERATIONS.items() if kind.devices == 2} == {"v2", "v3", "tpu7x"}
