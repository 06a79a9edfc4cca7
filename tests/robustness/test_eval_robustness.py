"""`lvit eval_robustness` from end to end: a classifier of random weights, images whose answers are known."""

import json
import os
import subprocess
import sys

import benchmark_data as made
import numpy as np
import pytest
from PIL import Image

from lvit_jax.bin import eval_robustness
from lvit_jax.build.trained import load_trained, transform
from lvit_jax.data import imagenet
from lvit_jax.errors import InputError
from lvit_jax.evals.benchmarks import CORRUPTIONS

WNIDS = made.all_wnids()
SIZE = (300, 260)
CELLS = [("gaussian_noise", 1), ("gaussian_noise", 2), ("shot_noise", 5)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A thousand numbered classes, as of an import without names."""
    return made.make_classifier(tmp_path_factory.mktemp("weights") / "thousand", WNIDS, names=False)


@pytest.fixture(scope="module")
def pictures(model):
    """Eleven images and their logits [11,1000], by the model's own transform, one at a time."""
    trained = load_trained(model)
    data = [made.jpeg(k, SIZE) for k in range(11)]
    return data, made.logits(trained, [transform(trained.config, trained.data)(one, [0, 0]).numpy() for one in data])


@pytest.fixture(scope="module")
def data_dir(pictures, tmp_path_factory):
    """ImageNet-A and -R, -V2, ReaL and a part of -C, labelled so that some answers are right and some wrong."""
    root = tmp_path_factory.mktemp("tfds")
    data, logits = pictures
    for mark in "ar":
        labels = second_at(logits[:, imagenet.subset(mark)], every=3)
        files = [(WNIDS[imagenet.subset(mark)[label]], f"{k}.jpg", data[k]) for k, label in enumerate(labels)]
        tree = str(made.write_tree(root / mark, files))
        splits = {"test": lambda builder, tree=tree: builder._generate_examples(tree)}
        made.prepare(f"imagenet_{mark}", None, str(root), splits)
    files = [(str(label), f"{k}.jpg", data[k]) for k, label in enumerate(second_at(logits, every=2))]
    tree = str(made.write_tree(root / "v2", files))
    made.prepare("imagenet_v2", "matched-frequency", str(root), {"test": lambda b: b._generate_examples(tree)})
    best = logits.argmax(axis=1)
    sets = [[], [(best[1] + 1) % 1000], *([0, int(label)] for label in best[2:8]), [], [], [int(best[10])]]
    made.prepare_real(root, data, [list(map(int, labels)) for labels in sets])
    return str(root)


def second_at(logits, every):
    """The best class of each image, but the second best of every so-manieth."""
    order = np.argsort(-logits, axis=1)
    return [order[k, 1 if k % every == 0 else 0] for k in range(len(logits))]


def evaluate(capsys, *argv):
    assert eval_robustness.main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])["results"]


FOUR = "--source=imagenet_a,imagenet_r,imagenet_v2,imagenet2012_real"


@pytest.fixture(scope="module")
def figures(model, data_dir):
    """The four benchmarks on four devices, in a process of its own, with batches of 4."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    argv = [f"--workdir={model}", f"--data_dir={data_dir}", FOUR, "--batch_size=4", "--json"]
    command = [sys.executable, "-m", "lvit_jax.bin.eval_robustness", *argv]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "imagenet_r: top-1 63.64 %, error 36.36 %  2/4 passes  left 0:0" in done.stderr
    return json.loads(done.stdout.splitlines()[-1])["results"]


def test_figures_are_those_of_the_labels(figures, pictures):
    """By construction 7 of 11 (each third is wrong), 5 of 11, and 7 of the 8 that have an answer."""
    assert figures["imagenet_a"] == {"top1": pytest.approx(700 / 11), "classes": 200, "examples": 11}
    assert figures["imagenet_r"] == {"top1": pytest.approx(700 / 11), "classes": 200, "examples": 11}
    assert figures["imagenet_v2"] == {"top1": pytest.approx(500 / 11), "classes": 1000, "examples": 11}
    real = {"top1": pytest.approx(700 / 8), "classes": 1000, "examples": 8, "unlabelled": 3}
    assert figures["imagenet2012_real"] == real
    # Among all thousand classes next to none of these answers would be one of the 200: the restriction matters.
    best = pictures[1].argmax(axis=1)
    assert np.isin(best, imagenet.subset("a")).sum() < 7 and len(set(best)) > 3


def test_one_device_and_a_batch_that_does_not_divide_give_the_same(figures, model, data_dir, capsys):
    assert evaluate(capsys, f"--workdir={model}", f"--data_dir={data_dir}", FOUR, "--batch_size=3") == figures


def test_imagenet_c_is_evaluated_as_it_is_stored(model, data_dir, capsys, tmp_path):
    """Direct logits of PIL's pixels of the files, not resized; mCE is not reported of a part."""
    cells = {cell: [made.jpeg(100 * k + i) for i in range(3)] for k, cell in enumerate(CELLS)}
    trained, manual = load_trained(model), tmp_path / "downloads" / "manual"
    labels = {
        cell: made.logits(trained, [made.pixels(one) for one in data]).argmax(axis=1) for cell, data in cells.items()
    }
    labels["shot_noise", 5] = [labels["shot_noise", 5][0], 3, 4]
    manual.mkdir(parents=True)

    def files(cell):
        pairs = zip(labels[cell], cells[cell], strict=True)
        return [(WNIDS[label], f"{k}.JPEG", one) for k, (label, one) in enumerate(pairs)]

    made.write_archive(manual / "noise.tar", CELLS, files)
    made.prepare_c("noise", tmp_path)
    out = tmp_path / "out"
    argv = [f"--workdir={model}", f"--data_dir={tmp_path}", "--source=imagenet_c", "--batch_size=2", f"--out={out}"]
    found = evaluate(capsys, *argv)["imagenet_c"]
    assert found["errors"] == {"gaussian_noise": {"1": 0, "2": 0}, "shot_noise": {"5": pytest.approx(200 / 3)}}
    assert found["mean_error"] == pytest.approx(100 / 3) and found["examples"] == 9
    assert found["mCE"] is None and "gaussian_noise 3" in found["missing"] and "snow" in found["missing"]
    assert sorted(path.name for path in out.iterdir()) == ["errors.png", "results.json"]
    assert json.loads((out / "results.json").read_text())["results"]["imagenet_c"] == found
    assert eval_robustness.main(argv[:-1]) == 0
    shown = capsys.readouterr().out
    assert "mCE: not reported: missing gaussian_noise 3" in shown and "mean error of what is there: 33.33 %" in shown
    with pytest.raises(InputError, match="is there already"):
        eval_robustness.main(argv)


def test_regenerated_corruptions_are_labelled(model, capsys, tmp_path):
    examples = {
        "validation": lambda b: [(k, {"image": made.jpeg(k), "label": 0, "file_name": str(k)}) for k in range(2)]
    }
    made.prepare("imagenet2012_corrupted", "fog_3", str(tmp_path), examples)
    argv = [f"--workdir={model}", f"--data_dir={tmp_path}", "--source=imagenet2012_corrupted"]
    assert "regenerated" in evaluate(capsys, *argv)["imagenet2012_corrupted"]["images"]
    assert eval_robustness.main(argv) == 0
    assert "mCE (regenerated): not reported" in capsys.readouterr().out


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A model of three classes at 35 pixels."""
    return made.make_classifier(tmp_path_factory.mktemp("weights") / "three", ["ant", "bee", "cat"], image_size=35)


@pytest.fixture(scope="module")
def seven(small):
    """Seven images of the model's size, and their logits [7,3]."""
    data = [made.png(k, 35) for k in range(7)]
    return data, made.logits(load_trained(small), [made.pixels(one) for one in data])


def write_classes(root, names, seven, shift=0):
    """The seven in folders by the class that the model sees in each, or by one of the others."""
    data, logits = seven
    labels = (logits.argmax(axis=1) + shift) % 3
    return made.write_tree(root, [(names[label], f"{k}.png", data[k]) for k, label in enumerate(labels)])


@pytest.fixture(scope="module")
def rain(seven, tmp_path_factory):
    """Own corruptions: rain at two severities, the second of all images mislabelled."""
    root = tmp_path_factory.mktemp("rain")
    for folder, shift in (("rain/light", 0), ("rain/heavy", 1)):
        write_classes(root / folder, ["emmet", "bee", "cat"], seven, shift)
    return root


def mapping(path, classes='{"emmet": "ant"}'):
    path.write_text(f'{{"folders": {{"rain/light": ["rain", 1], "rain/heavy": ["rain", 3]}}, "classes": {classes}}}')
    return f"--mapping={path}"


def test_own_corruptions_in_folders(small, rain, capsys, tmp_path):
    argv = [f"--workdir={small}", f"--source=folder:{rain}", mapping(tmp_path / "m.json"), "--batch_size=3"]
    found = evaluate(capsys, *argv)[f"folder:{rain}"]
    assert found["errors"] == {"rain": {"1": 0, "3": 100}} and found["mean_error"] == 50 and "mCE" not in found


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ("{}", ["'emmet'", "no class of the model", '"classes"']),
        ('{"emmet": "ants"}', ["'ants'", "did you mean 'ant'"]),
    ],
)
def test_class_folders_that_the_model_does_not_know(small, rain, tmp_path, classes, words):
    argv = [f"--workdir={small}", f"--source=folder:{rain}", mapping(tmp_path / "m.json", classes)]
    with pytest.raises(InputError) as error:
        eval_robustness.main(argv)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_corruptions_on_the_way(small, seven, capsys, tmp_path):
    """All 15 of every image; of one that draws nothing, the error of the library's own images."""
    corrupt = pytest.importorskip("imagecorruptions").corrupt
    root = write_classes(tmp_path / "images", ["ant", "bee", "cat"], seven)
    found = evaluate(capsys, f"--workdir={small}", f"--source=folder:{root}", "--corrupt=5", "--batch_size=4")
    found = found[f"folder:{root} train"]
    assert list(found["errors"]) == list(CORRUPTIONS) and found["examples"] == 15 * 7 and "mCE" not in found
    data, logits = seven
    crops = [Image.fromarray(made.decoded(one)).resize((40, 40), Image.Resampling.BICUBIC) for one in data]
    crops = [np.asarray(one.crop((2, 2, 37, 37))) for one in crops]  # 35 pixels are 0.875 of 40
    images = [(corrupt(one, 5, "contrast") / np.float32(255) - 0.5) / 0.5 for one in crops]
    wrong = made.logits(load_trained(small), images).argmax(axis=1) != logits.argmax(axis=1)
    assert found["errors"]["contrast"] == {"5": pytest.approx(100 * wrong.mean())} and wrong.any()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], ["--source=", "imagenet_c", "--corrupt"]),
        (["--source=imagenet_b"], ["imagenet_b", "did you mean", "imagenet_a"]),
        (["--source=imagenet_a,imagenet-r"], ["'imagenet-r'", "did you mean 'imagenet_r'"]),
        (["--source=folder:/x"], ["--mapping=FILE"]),
        (["--source=imagenet_a", "--mapping=x"], ["--mapping is for"]),
        (["--source=imagenet_a", "--split=test"], ["--split is for --corrupt"]),
        (["--corrupt=1,6"], ["'6'", "1,2,3,4,5"]),
        (["--corrupt=1,,2"], ["''", "1,2,3,4,5"]),
        (["--source=imagenet_a", "--out=/"], ["--out=/", "not an empty folder"]),
        (["--source=imagenet_a"], ["imagenet_a asks for 200 classes", "n01498041", "ant, bee, cat"]),
        (
            ["--source=imagenet_v2"],
            [
                "imagenet_v2 asks for 1000 classes",
                "998 of them",  # WordNet calls two of them ant and bee
            ],
        ),
        (
            ["--source=imagenet_c"],
            ["put blur.tar", "zenodo.org/records/2235448", "the next command", "imagenet_c/noise"],
        ),
        (["--source=imagenet_v2/topimages"], ["lvit prepare --source=imagenet_v2/topimages"]),
        (["--source=imagenet2012_corrupted"], ["ILSVRC2012_img_val.tar", "imagenet2012_corrupted/gaussian_noise_1"]),
        (["--source=imagenet_a", "--workdir=nowhere"], ["nowhere", "config.json"]),
    ],
)
def test_bad_input_is_one_line(small, data_dir, argv, words, tmp_path):
    with pytest.raises(InputError) as error:
        eval_robustness.main([f"--workdir={small}", f"--data_dir={data_dir}", *argv])
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)
