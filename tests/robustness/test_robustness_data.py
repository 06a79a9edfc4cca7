"""ImageNet-C from archives of the published layout, ReaL's sets of labels, transforms of corrupted images."""

import io

import benchmark_data as made
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from lvit_jax.data import prepared, records
from lvit_jax.data.answers import open_answers
from lvit_jax.data.corrupt import check_stored, corrupted, stored
from lvit_jax.data.pipeline import eval_batches
from lvit_jax.errors import InputError

FIELDS = {"image_size": (224, 224), "mean": (0.5,) * 3, "std": (0.25,) * 3}
CELLS = [("gaussian_noise", 1), ("gaussian_noise", 5), ("shot_noise", 3)]
WNIDS = made.all_wnids()


def files(cell):
    """Three files of one corruption and severity, of other classes and bytes in each."""
    first = CELLS.index(cell)
    return [(WNIDS[7 * first + k], f"ILSVRC2012_val_{k:08}.JPEG", made.jpeg(10 * first + k)) for k in range(3)]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """data_dir with noise.tar, prepared."""
    data_dir = tmp_path_factory.mktemp("c")
    manual = data_dir / "downloads" / "manual"
    manual.mkdir(parents=True)
    made.write_archive(manual / "noise.tar", CELLS, files)
    made.prepare_c("noise", data_dir)
    return str(data_dir)


def test_the_archives_bytes_and_labels_come_back(published):
    assert records.split_names("imagenet_c/noise", published) == [f"{name}_{s}" for name, s in sorted(CELLS)]
    for name, severity in CELLS:
        source = records.open_tfds("imagenet_c/noise", f"{name}_{severity}", published, classes=WNIDS)
        found = {(WNIDS[int(label)], data.numpy()) for data, label in map(source.load, source.rows)}
        assert found == {(wnid, data) for wnid, _, data in files((name, severity))}


def test_stored_images_reach_the_model_pixel_by_pixel(published):
    source = records.open_tfds("imagenet_c/noise", "shot_noise_3", published)
    check_stored(source, (224, 224))
    batch = next(eval_batches(source, stored(**FIELDS), batch_size=3)())
    by_label = {WNIDS.index(wnid): np.asarray(Image.open(io.BytesIO(data))) for wnid, _, data in files(CELLS[2])}
    pixels = np.round((batch["image"] * 0.25 + 0.5) * 255).astype(np.uint8)
    np.testing.assert_array_equal(pixels, np.stack([by_label[label] for label in batch["label"]]))
    with pytest.raises(InputError, match="224x224 and not to be resized; this model takes 160x160"):
        check_stored(source, (160, 160))


def test_an_image_of_another_size_is_cropped_as_in_any_evaluation():
    data = made.jpeg(3, (300, 260))
    whole = stored(**FIELDS, eval_crop=0.875)(data, [0, 0])
    image = Image.open(io.BytesIO(data)).resize((295, 256), Image.Resampling.BICUBIC).crop((36, 16, 260, 240))
    ours = np.round((whole.numpy() * 0.25 + 0.5) * 255)
    assert np.abs(ours - np.asarray(image, np.float32)).mean() < 0.5


def test_an_archive_that_is_missing_or_another(tmp_path):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    with pytest.raises(InputError, match=r"not prepared; put noise\.tar \(from zenodo.* into .*manual"):
        prepared.open_builder("imagenet_c/noise", str(tmp_path))
    assert not prepared.is_there("imagenet_c/noise", str(tmp_path))
    made.write_archive(manual / "blur.tar", [("", "")], lambda cell: [("x", "readme.txt", b"nothing")])
    with pytest.raises(InputError, match="no CORRUPTION/SEVERITY"):
        prepared.open_builder("imagenet_c/blur", str(tmp_path))
    with pytest.raises(InputError, match=r"'nois'.*did you mean 'noise'"):
        prepared.open_builder("imagenet_c/nois", str(tmp_path))


def test_real_labels_are_sets_by_row(tmp_path):
    sets = [[1, 2], [], [5], [7, 8, 9], [0]]
    made.prepare_real(tmp_path, [made.jpeg(k) for k in range(5)], sets)
    for _ in range(2):  # the second time from the cache
        source, answers = open_answers("imagenet2012_real", "validation", str(tmp_path), "real_label")
        assert answers.shape == (5, 3) and source.size == 5
        found = {
            data.numpy(): sorted(a for a in answers[int(row)] if a >= 0) for data, row in map(source.load, source.rows)
        }
        assert found == {made.jpeg(k): labels for k, labels in enumerate(sets)}
    part, _ = open_answers("imagenet2012_real", "validation[2:4]", str(tmp_path), "real_label")
    assert list(part.labels) == [2, 3]
    with pytest.raises(InputError, match="no feature 'real'"):
        open_answers("imagenet2012_real", "validation", str(tmp_path), "real")


@pytest.fixture(scope="module")
def corrupt():
    return pytest.importorskip("imagecorruptions").corrupt


def as_pixels(image):
    return np.round((image * 0.25 + 0.5) * 255).astype(np.uint8)


def test_corruptions_without_noise_are_the_librarys(corrupt):
    data = made.jpeg(5)
    crop = as_pixels(stored(**FIELDS)(data, [0, 0]).numpy())
    for name, severity in (("contrast", 4), ("jpeg_compression", 5), ("defocus_blur", 2)):
        example = corrupted(name, severity, **FIELDS, eval_crop=1.0)
        np.testing.assert_array_equal(as_pixels(example(data, [0, 0]).numpy()), corrupt(crop, severity, name))


@pytest.mark.parametrize("name", ["gaussian_noise", "glass_blur", "impulse_noise", "snow", "frost", "fog"])
def test_noise_is_drawn_by_image_and_not_by_thread(corrupt, tmp_path, name):
    """The same for the same place in every pass, whatever the threads; another for another image of equal pixels."""
    images = made.write_tree(tmp_path / "x", [("a", f"{k}.png", made.png(9, 40)) for k in range(12)])
    source = made.folder(images)
    fields = FIELDS | {"image_size": (40, 40), "eval_crop": 1.0}
    passes = []
    for threads in (1, 4, 4):
        batches = eval_batches(source, corrupted(name, 3, **fields), batch_size=12, threads=threads)
        passes.append(next(batches())["image"])
    np.testing.assert_array_equal(passes[0], passes[1])
    np.testing.assert_array_equal(passes[1], passes[2])
    different = len(np.unique(passes[0].reshape(12, -1), axis=0))
    assert different == 12 if name != "frost" else different > 1  # frost draws one of six pictures and a place in it


def test_a_grey_model_sees_the_grey_of_the_corrupted_colours(corrupt):
    fields = {"image_size": (40, 40), "eval_crop": 1.0, "resample": "fast", "mean": (0.5,), "std": (0.25,)}
    image = corrupted("contrast", 5, channels=1, **fields)(tf.constant(made.png(9, 40)), [0, 0])
    assert image.shape == (40, 40, 1)
    colours = Image.fromarray(corrupt(np.asarray(Image.open(io.BytesIO(made.png(9, 40)))), 5, "contrast"))
    np.testing.assert_array_equal(as_pixels(image.numpy())[..., 0], np.asarray(colours.convert("L")))


def test_what_cannot_be_corrupted(corrupt):
    with pytest.raises(InputError, match="32 pixels a side at least; this model takes 16"):
        corrupted("fog", 1, **FIELDS | {"image_size": 16})
    with pytest.raises(InputError, match="cannot make rain here"):
        corrupted("rain", 1, **FIELDS)
