"""`lvit embed`: both formats, images that cannot be read, a stop and another start, bad input."""

import json

import numpy as np
import pyarrow.parquet
import pytest
from encoders import make_workdir
from PIL import Image

import lvit_jax.build.embed
from lvit_jax.bin import embed
from lvit_jax.errors import InputError, Stopped

RNG = np.random.default_rng(0)
CLASSES = ("cat", "dog")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_workdir(tmp_path_factory.mktemp("models") / "vit", "vit")


@pytest.fixture(scope="module")
def swin(model, tmp_path_factory):
    return make_workdir(tmp_path_factory.mktemp("models") / "swin", "swin")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten images in two class folders; the third dog cannot be read."""
    root = tmp_path_factory.mktemp("images")
    for name in CLASSES:
        (root / name).mkdir()
        for number in range(5):
            pixels = RNG.integers(0, 255, (8, 8), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    (root / "dog" / "2.png").write_bytes(b"no image")
    return root


@pytest.fixture
def parts_of_three(monkeypatch):
    """Small parts, so that ten images make four."""
    monkeypatch.setattr(lvit_jax.build.embed, "ROWS", 3)


def run(model, folder, out, *flags):
    return embed.main([f"--workdir={model}", f"--source=folder:{folder}", f"--out={out}", "--batch_size=2", *flags])


def names(folder):
    return [f"{name}/{number}.png" for name in CLASSES for number in range(5) if (name, number) != ("dog", 2)]


def test_parquet_and_npz_hold_the_same_table(model, folder, tmp_path, capsys, parts_of_three):
    assert run(model, folder, tmp_path / "a.npz") == 0
    assert run(model, folder, tmp_path / "a.parquet", "--json") == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["images"], said["unreadable"], said["width"], said["layer"]) == (9, 1, 32, 2)
    array, table = np.load(tmp_path / "a.npz"), pyarrow.parquet.read_table(tmp_path / "a.parquet")
    assert array["name"].tolist() == table["name"].to_pylist() == names(folder)
    assert array["label"].tolist() == table["label"].to_pylist() == [0] * 5 + [1] * 4
    assert table["class"].to_pylist() == [array["classes"][label] for label in array["label"]]
    np.testing.assert_array_equal(np.array(table["feature"].to_pylist(), np.float32), array["feature"])
    assert len(np.unique(array["feature"][:, 0])) == 9  # an image each
    assert json.loads(table.schema.metadata[b"lvit"])["pool"] == "mean"
    assert {path.name for path in tmp_path.iterdir()} == {"a.npz", "a.parquet"}


def test_any_tree_of_images_has_no_labels(model, folder, tmp_path):
    out = tmp_path / "a.parquet"
    argv = [f"--workdir={model}", f"--images={folder}", f"--out={out}", "--layer=-3", "--pool=cls"]
    assert embed.main(argv) == 0
    assert pyarrow.parquet.read_table(out).column_names == ["name", "feature"]


def test_a_stopped_command_goes_on_and_another_one_is_refused(model, folder, tmp_path, monkeypatch, parts_of_three):
    out, table, made = tmp_path / "a.npz", lvit_jax.build.embed._table, []

    def dies_in_the_third(model, step, rows, *rest):
        made.append(rows.size)
        if len(made) == 3:
            raise KeyboardInterrupt
        return table(model, step, rows, *rest)

    monkeypatch.setattr(lvit_jax.build.embed, "_table", dies_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(model, folder, out)
    parts = tmp_path / "a.npz.parts"
    assert {path.name for path in parts.iterdir()} == {"command.json", "000000.npz", "000001.npz"}
    with pytest.raises(InputError, match=r"another command \(layer: 2 there, 1 here"):
        run(model, folder, out, "--layer=1")
    made.append("from here on it lives")
    assert run(model, folder, out, "--batch_size=5") == 0  # features do not depend on it
    assert made[4:] == [3, 1] and not parts.exists()  # the first two are not made again
    monkeypatch.undo()
    assert run(model, folder, tmp_path / "b.npz") == 0  # in one part of 2048 rows
    once, twice = np.load(tmp_path / "b.npz"), np.load(out)
    assert once["name"].tolist() == twice["name"].tolist()
    np.testing.assert_allclose(twice["feature"], once["feature"], rtol=1e-5, atol=1e-6)


def test_where_nothing_can_be_read_it_stops(model, tmp_path):
    (tmp_path / "images" / "cat").mkdir(parents=True)
    (tmp_path / "images" / "cat" / "1.png").write_bytes(b"no image")
    with pytest.raises(Stopped, match=r"no image of folder:.* could be read"):
        run(model, tmp_path / "images", tmp_path / "a.npz")
    assert not (tmp_path / "a.npz").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--out={tmp}/a.parket"], "unknown suffix of --out '.parket' .did you mean '.parquet'"),
        (["--pool=maen"], "did you mean 'mean'"),
        (["--pool=dist"], "has no distillation token; nearest: --pool=cls"),
        (["--layer=3"], r"--layer=3, but .* has layers 0 to 2 \(or -1 to -3 from the end\)"),
        (["--layer=-4"], "layers 0 to 2"),
        (["--workdir={swin}", "--pool=cls"], "no CLS token; nearest: 'mean'"),
        (["--images=/x"], "leave out --source"),
        (["--split=val"], "unknown split"),
        (["--out={model}/config.json"], "unknown suffix"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(model, swin, folder, tmp_path, flags, says):
    flags = [flag.format(tmp=tmp_path, model=model, swin=swin) for flag in flags]
    with pytest.raises(InputError, match=says):
        run(model, folder, tmp_path / "a.npz", *flags)
    assert not list(tmp_path.iterdir())


def test_an_output_that_exists_is_left_alone(model, folder, tmp_path):
    (tmp_path / "a.npz").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        run(model, folder, tmp_path / "a.npz")
    assert (tmp_path / "a.npz").read_text() == "mine"
