"""`lvit eval_classify` and `lvit predict` on a small fine-tuned run."""

import csv
import io
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from lvit_jax.bin import eval_classify, export_torch, flags, import_torch, predict, train
from lvit_jax.build.backbone import transform
from lvit_jax.build.data import load_data
from lvit_jax.build.trained import Trained, choose_source, load_trained
from lvit_jax.errors import InputError

CLASSES = ("black", "grey", "white")


def write_images(root, classes, count, size=12):
    """Flat images, dark to bright by class, with some noise."""
    rng = np.random.default_rng(len(classes))
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            level = 40 + 85 * CLASSES.index(name)
            pixels = np.clip(rng.normal(level, 8, (size, size, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), CLASSES, 20)


@pytest.fixture(scope="module")
def workdir(images, tmp_path_factory):
    """A classifier of three shades, with averaged weights, whose validation set was held out."""
    done = tmp_path_factory.mktemp("runs") / "ft"
    argv = ["--config=demo/finetune", f"--workdir={done}", f"--config.data.source=folder:{images}"]
    argv += ["--config.model.channels=3", "--config.data.statistics=half", "--config.data.holdout=0.2"]
    argv += [
        "--config.model.width=32",
        "--config.model.depth=2",
        "--config.model.heads=2",
        "--config.model.dtype=float32",
    ]
    argv += ["--config.train.steps=60", "--config.train.batch_size=16", "--config.optim.warmup_epochs=1.0"]
    argv += ["--config.optim.blr=0.04", "--config.optim.ema=0.8", "--config.eval.batch_size=5"]
    assert train.main(argv) == 0
    return done


def evaluate(capsys, *argv):
    assert eval_classify.main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_held_out_images_are_listed_and_evaluated_exactly(workdir, capsys):
    record = json.loads((workdir / "config.json").read_text())
    held = record["data"]["held_out"]
    assert len(held) == 12 and {name.split("/")[0] for name in held} == set(CLASSES)
    figures = evaluate(capsys, f"--workdir={workdir}")
    assert figures["examples"] == 12 and figures["top1"] >= 90  # three shades are easy
    lines = [json.loads(x) for x in next((workdir / "metrics").glob("*")).read_text().splitlines()]
    during = [line for line in lines if "val/top1" in line][-1]
    assert during["val/top1"] == figures["top1"]
    assert during["val/mean_per_class"] == figures["mean_per_class"] and figures["classes"] == 3
    assert during["val/loss"] == pytest.approx(figures["loss"], rel=1e-5)


def test_figures_do_not_depend_on_the_batch_size(workdir, capsys):
    by_size = [evaluate(capsys, f"--workdir={workdir}", f"--batch_size={size}") for size in (1, 7, 12, 64)]
    for name in ("top1", "mean_per_class", "examples"):
        assert {f[name] for f in by_size} == {by_size[0][name]}
    assert all(f["loss"] == pytest.approx(by_size[0]["loss"], rel=1e-5) for f in by_size)


def test_raw_and_averaged_weights_differ(workdir, capsys):
    averaged, raw = evaluate(capsys, f"--workdir={workdir}"), evaluate(capsys, f"--workdir={workdir}", "--no-ema")
    assert averaged["loss"] != raw["loss"]


def test_classes_of_another_source_are_matched_by_name(workdir, capsys, tmp_path):
    other = write_images(tmp_path / "val", ("white", "black"), 6)  # a subset, so sorted numbers would be wrong
    for argv in (["--split=val"], []):
        figures = evaluate(capsys, f"--workdir={workdir}", f"--source=folder:{other.parent}", *argv)
        assert figures["examples"] == 12 and figures["top1"] >= 90 and figures["classes"] == 2
    (other / "white").rename(other / "withe")
    with pytest.raises(InputError, match=r"withe.*white"):
        eval_classify.main([f"--workdir={workdir}", f"--source=folder:{other.parent}", "--split=val"])


def test_the_runs_own_source_by_name_is_what_it_held_out_and_trained_on(workdir, images, capsys):
    own = evaluate(capsys, f"--workdir={workdir}")
    assert evaluate(capsys, f"--workdir={workdir}", f"--source=folder:{images}") == own
    assert evaluate(capsys, f"--workdir={workdir}", "--split=train")["examples"] == 60 - own["examples"]


@pytest.mark.parametrize(
    ("fields", "sizes"),
    [
        ({"val_split": "test"}, {None: 3, "train": 12, "validation": 6, "val": 6, "test": 3}),
        ({}, {None: 6, "train": 12, "validation": 6, "val": 6, "test": 3}),
        ({"tune": 0.25}, {None: 3, "tune": 3, "train": 9, "validation": 6, "test": 3}),
        ({"val_split": "test", "labels_per_class": 2}, {None: 3, "train": 6, "validation": 6, "test": 3}),
    ],
)
def test_a_split_is_what_its_name_says(tmp_path, fields, sizes):
    """Whichever split a run validates on."""
    for split, count in (("train", 4), ("val", 2), ("test", 1)):
        write_images(tmp_path / split, CLASSES, count)
    config = flags.load_config("demo/finetune").to_dict()
    config["data"].update(source=f"folder:{tmp_path}", **fields)
    data = load_data(config)
    trained = Trained(config, data.record, data.train.classes, None, None, None)
    assert {split: choose_source(trained, None, split, None).size for split in sizes} == sizes
    with pytest.raises(InputError, match="unknown split"):
        choose_source(trained, None, "other", None)


def test_an_export_imported_again_evaluates_and_predicts_the_same(workdir, images, capsys, tmp_path):
    exported, weights = tmp_path / "exported", tmp_path / "weights"
    assert export_torch.main([f"--workdir={workdir}", "--to=timm", f"--out={exported}"]) == 0
    assert import_torch.main([f"--file={exported}", f"--out={weights}"]) == 0
    folder = f"--source=folder:{images}"
    capsys.readouterr()
    imported = evaluate(capsys, f"--workdir={weights}", folder)
    assert imported["examples"] == 60 and imported["top1"] >= 90
    assert predict.main([f"--workdir={weights}", f"--images={images}", "--top=1"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert np.mean([row["class_1"] == row["name"].split("/")[0] for row in rows]) == imported["top1"] / 100
    slope = np.add.outer(np.arange(32) * 4, np.arange(24) * 5)[:, :, None].repeat(3, axis=2)
    png = tf.io.encode_png(slope.astype(np.uint8))
    ours, theirs = (
        transform(place.config, place.data)(png, [0, 0]).numpy() for place in map(load_trained, (workdir, weights))
    )
    np.testing.assert_allclose(ours, theirs, atol=0.1)  # one crop: the run resizes "fast", its import "exact"


def test_predict_names_every_readable_image_once(workdir, images, capsys, tmp_path):
    folder = write_images(tmp_path / "new", ("white",), 5)
    (folder / "white" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    assert predict.main([f"--workdir={workdir}", f"--images={folder}", "--batch_size=4"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["name"] for row in rows] == [f"white/{i}.png" for i in range(5)]
    assert all(row["class_1"] == "white" for row in rows)
    total = sum(float(rows[0][f"probability_{k}"]) for k in (1, 2, 3))
    assert total == pytest.approx(1, abs=1e-5)


def test_predict_as_json(workdir, images, capsys):
    assert predict.main([f"--workdir={workdir}", f"--images={images}", "--top=1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["predictions"]
    assert len(found) == 60 and all(len(p["classes"]) == 1 and 0 < p["probabilities"][0] <= 1 for p in found)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--workdir=nowhere"], ["nowhere", "config.json"]),
        (["--source=folder:/nowhere"], ["/nowhere"]),
        (["--split=tset"], ["tset", "validation"]),
        (["--batch_size=0"], ["0"]),
        (["--sorce=x"], ["--sorce", "--source"]),
    ],
)
def test_bad_input_is_one_line(workdir, argv, words):
    argv = argv if argv[0].startswith("--workdir") else [f"--workdir={workdir}", *argv]
    with pytest.raises(InputError) as error:
        eval_classify.main(argv)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_a_folder_without_images_is_one_line(workdir, tmp_path):
    with pytest.raises(InputError, match="no images"):
        predict.main([f"--workdir={workdir}", f"--images={tmp_path}"])
