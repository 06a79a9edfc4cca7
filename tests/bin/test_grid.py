"""`lvit train --grid`: what it reads, that it goes on where it was stopped, that it sees training images alone."""

import contextlib
import io
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lvit_jax.bin import flags, grid, grid_report, train
from lvit_jax.bin.grid_chart import heat_map
from lvit_jax.data.sources import open_data
from lvit_jax.errors import InputError, Stopped
from lvit_jax.training.record import read_record

CELLS = ("blr0.001", "blr0.05")


def cells(text, *overrides, config="transfer/cars"):
    return grid.make_cells(text, flags.override(flags.load_config(config), overrides))


def test_usual_values_are_the_papers():
    found = cells("blr,layer_decay")
    assert len(found) == 12 and found[0].settings == {"optim.blr": "0.005", "optim.layer_decay": "0.65"}
    rates = sorted({cell.config.optim.blr * cell.config.train.batch_size / 256 for cell in found})
    assert rates == pytest.approx([0.01, 0.03, 0.1])  # recipes 6
    assert sorted({cell.config.optim.layer_decay for cell in found}) == [0.65, 0.75, 0.85, 1.0]
    halved = cells("blr", "--config.train.batch_size=256")
    assert [cell.config.optim.blr for cell in halved] == pytest.approx([0.01, 0.03, 0.1])
    assert {cell.config.data.tune for cell in found} == {0.2}
    assert cells("blr", "--config.data.tune=0.4")[0].config.data.tune == 0.4


def test_ones_own_values():
    found = cells("blr=0.015,0.05;train.epochs=5, 9")
    assert [cell.name for cell in found] == [f"blr{b}_epochs{e}" for b in ("0.015", "0.05") for e in (5, 9)]
    assert [(cell.config.optim.blr, cell.config.train.epochs) for cell in found][1] == (0.015, 9.0)
    assert len(cells("blr=0.02;layer_decay")) == 4
    assert [cell.name for cell in cells("init.encoder=runs/a,runs/b")] == ["encoderruns_a", "encoderruns_b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr", ["unknown config key 'lr'", "did you mean 'blr'"]),
        ("blr=0.1;layer_decoy=1", ["'layer_decoy'", "did you mean 'layer_decay'"]),
        ("blr=0.1,-1", ["'optim.blr' is -1.0", "the least is 0.0"]),
        ("blr=fast", ["'optim.blr' wants float", "'fast'"]),
        ("batch_size=1,0;layer_decay", ["may be", "train.batch_size", "eval.batch_size"]),
        ("train.batch_size=1,0", ["train.batch_size", "the least is 1"]),
        ("weight_decay", ["no usual values", "--grid=weight_decay="]),
        ("blr;optim.blr=1", ["'optim.blr' twice"]),
        ("blr=1,1", ["has a value twice"]),
        ("blr;layer_decay;train.epochs=3", ["3 fields", "one or two"]),
        ("blr=", ["empty"]),
        ("blr,", ["unknown config key ''"]),
    ],
)
def test_mistakes_get_one_line(text, words):
    with pytest.raises(InputError) as error:
        cells(text)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value), str(error.value)


def test_only_classifiers_have_a_grid():
    with pytest.raises(InputError, match="objective 'mae' has none"):
        cells("blr", config="demo/mae")
    with pytest.raises(InputError, match="--json is for --grid"):
        train.main(["--config=demo/finetune", "--workdir=x", "--json"])


def test_another_runs_workdir_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="holds a run already"):
        train.main(["--config=demo/finetune", f"--workdir={tmp_path}", "--grid=blr=0.1"])
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    (tmp_path / "grid").mkdir()
    grid.check_place(str(tmp_path))  # after its last training a grid may be told again


def test_a_mistake_costs_no_jax():
    code = (
        "import sys; from lvit_jax.bin import flags, grid; grid.make_cells('blr', flags.load_config('transfer/cars'))\n"
    )
    code += "assert not {'jax', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_progress_goes_by_the_cells_before():
    assert grid.progress(1, 12, []) == "cell 1 of 12"
    assert grid.progress(3, 12, [20.0, 28.0]) == "cell 3 of 12, about 4 min left"
    assert grid.progress(12, 12, [20.0, 28.0]) == "cell 12 of 12, about 24 s left"


def test_the_last_command_has_the_best_settings_and_no_grid():
    argv = [
        "--config=transfer/cars",
        "--grid",
        "blr",
        "--workdir=a b",
        "--config.optim.blr=9",
        "--json",
        "--distributed",
    ]
    argv += ["--config.data.tune=0.3", "--config.seed=1"]
    command = grid_report.last_command(argv, {"optim.blr": "0.05"})
    expected = "lvit train --config=transfer/cars --workdir='a b' --distributed --config.seed=1 --config.optim.blr=0.05"
    assert shlex.split(command) == shlex.split(expected)
    assert "--grid" not in grid_report.last_command(["--grid=blr;layer_decay"], {})


def scored(top1, loss=1.0):
    return {"top1": top1, "top5": 99.0, "mean_per_class": top1, "loss": loss, "examples": 50}


def test_a_cell_that_diverged_is_an_answer():
    three = cells("blr=0.1,0.2,9.0")
    scores = [scored(50.0, loss=2.0), scored(50.0), {"stopped": "step 3: loss is nan"}]
    found = grid_report.result(three, scores, [])
    assert found["best"] == "blr0.2"  # of equals, the one of less loss
    assert found["cells"][2] == {"name": "blr9.0", "settings": {"optim.blr": 9.0}, "stopped": "step 3: loss is nan"}
    last = [line.split() for line in grid_report.table(found).splitlines()][3]
    assert last == ["9.0", "-", "-", "-", "-", "stopped"]
    with Image.open(io.BytesIO(heat_map(found))) as picture:  # of a few cells, and no label runs over its edge
        pixels = np.asarray(picture.convert("L"))
    assert pixels[0].min() == pixels[-1].min() == pixels[:, 0].min() == pixels[:, -1].min() == 255 > pixels.min()
    with pytest.raises(Stopped, match=r"all 3 cells .* step 3"):
        grid_report.result(three, [scores[2]] * 3, [])


@pytest.fixture(scope="module")
def argv(tmp_path_factory):
    """A grid of two rates on the digits: one is far too low."""
    root = tmp_path_factory.mktemp("grid")
    small = {"model.width": 32, "model.depth": 1, "model.heads": 2, "train.steps": 30, "optim.warmup_epochs": 0.2}
    small |= {"data.data_dir": root / "tfds", "data.labels_per_class": 20}
    fields = [f"--config.{key}={value}" for key, value in small.items()]
    return ["--config=demo/finetune", f"--workdir={root / 'run'}", "--grid=blr=0.001,0.05", *fields]


@pytest.fixture(scope="module")
def stopped(argv):
    """The grid, stopped after its first cell: (workdir, the folder of that cell's weights and when it was changed)."""
    workdir = Path(argv[1].removeprefix("--workdir="))

    def once(config, folder, real=train.train):
        if folder.endswith(CELLS[1]):
            raise KeyboardInterrupt
        return real(config, folder)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "train", once)
        train.main(argv)
    saved = workdir / "grid" / CELLS[0] / "checkpoints" / "30"
    assert saved.exists() and not (workdir / "grid.json").exists() and not (workdir / "grid.png").exists()
    return workdir, saved, saved.stat().st_mtime_ns


@pytest.fixture(scope="module")
def finished(stopped, argv):
    """The workdir after the same command again, and what it said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        assert train.main([*argv, "--json"]) == 0
    return stopped[0], said.getvalue()


def test_a_stopped_grid_goes_on(stopped, finished):
    workdir, saved, changed = stopped
    assert saved.stat().st_mtime_ns == changed
    assert f"{CELLS[0]}: finished at step 30, nothing to do" in finished[1]
    assert f"cell 2 of 2: {CELLS[1]}" in finished[1]  # what was finished before says nothing of the time left
    assert sorted(path.name for path in (workdir / "grid").iterdir()) == list(CELLS)


def test_the_result_says_which_is_best_and_on_what(finished):
    workdir, said = finished
    found = json.loads((workdir / "grid.json").read_text())
    assert json.loads(said.splitlines()[-1]) == found
    assert [row["settings"]["optim.blr"] for row in found["cells"]] == [0.001, 0.05]
    low, high = found["cells"]
    assert high["loss"] < low["loss"] and 0 < high["top1"] <= 100
    assert found["best"] == max(found["cells"], key=lambda row: (row["top1"], -row["loss"]))["name"]
    assert (
        found["scored_on"] == "40 training images that no cell trained on (one is 2.5 points)"
    )  # a fifth of 20 of each of 10 classes
    lines = grid_report.table(found).splitlines()
    assert lines[0].split() == ["blr", "top1", "top5", "mean_per_class", "loss"]
    assert [line.endswith("<- best") for line in lines[1:3]] == [found["best"] == name for name in CELLS]
    assert lines[-1] == found["command"]
    assert Image.open(workdir / "grid.png").size[0] > 200


def test_cells_see_training_images_alone(finished, argv):
    """What they train and score on are the images that the last command trains on, none that it validates on."""
    workdir, _ = finished
    records = [read_record(workdir / "grid" / name)["data"] for name in CELLS]
    held, labelled = set(records[0]["held_out"]), set(records[0]["labelled"])
    assert held < labelled and len(held) == 40 and len(labelled) == 200 and records[0]["size"] == 160
    assert records[0]["held_out"] == records[1]["held_out"]
    assert all(name.startswith("digits/train#") for name in labelled)
    config = flags.load_config("demo/finetune").data.to_dict() | {"data_dir": str(workdir.parent / "tfds")}
    final = open_data(**config | {"labels_per_class": 20}, image_size=8, channels=1)
    assert set(final.train.ids()) == labelled and not set(final.val.ids()) & labelled


def test_the_last_command_trains_with_the_best(finished):
    workdir, _ = finished
    command = shlex.split(json.loads((workdir / "grid.json").read_text())["command"])
    assert command[:2] == ["lvit", "train"]
    assert train.main([*command[2:], "--config.train.steps=2", "--config.optim.warmup_epochs=0.0"]) == 0
    record = read_record(workdir)
    assert f"blr{record['config']['optim']['blr']}" == json.loads((workdir / "grid.json").read_text())["best"]
    assert record["config"]["data"]["tune"] is None
    assert (record["data"]["size"], record["data"]["val_size"]) == (200, 360)
