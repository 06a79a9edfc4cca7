"""tfds data by random access: the bundled digits as ArrayRecord, and the same as TFRecord through an offset index."""

import itertools
from typing import ClassVar

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from lvit_jax.data import records
from lvit_jax.data.builders.digits import Digits
from lvit_jax.data.image import decode
from lvit_jax.data.pipeline import eval_batches, train_batches
from lvit_jax.data.prepared import open_builder
from lvit_jax.data.recipes import evaluate, finetune
from lvit_jax.data.records import open_records, open_tfds, tfrecord_index
from lvit_jax.errors import InputError

COMMON = {"image_size": 8, "channels": 1, "mean": (0.0,), "std": (1 / 255,)}


@pytest.fixture(scope="module")
def tfrecord_dir(tmp_path_factory):
    """The digits stored as TFRecord under another name, as a catalogue data set that was prepared long ago."""
    where = tmp_path_factory.mktemp("tfrecord")
    builder = type("OldDigits", (Digits,), {"name": "old_digits"})(data_dir=str(where), file_format="tfrecord")
    builder.download_and_prepare()
    return str(where)


def digests(source):
    """The pixels and the label of every example, as eval_batches gives them."""
    batches = eval_batches(source, evaluate(**COMMON, eval_crop=1.0), batch_size=128)()
    kept = [(batch["image"][batch["mask"] == 1], batch["label"][batch["mask"] == 1]) for batch in batches]
    pixels, labels = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    return [(p.tobytes(), label) for p, label in zip(pixels.round().astype(np.uint8), labels.tolist(), strict=True)]


def test_digits_are_the_digits_of_scikit_learn(digits_dir):
    sources = [open_tfds("digits", split, digits_dir) for split in ("train", "validation")]
    assert [s.size for s in sources] == [1437, 360]
    assert all(np.bincount(s.labels).max() - np.bincount(s.labels).min() <= 8 for s in sources)
    data = load_digits()
    expected = [image.tobytes() for image in np.round(data.images * (255 / 16)).astype(np.uint8)]
    found = digests(sources[0]) + digests(sources[1])
    assert sorted(found) == sorted(zip(expected, data.target.tolist(), strict=True))


def test_both_formats_give_the_same_batches(digits_dir, tfrecord_dir):
    def batches(source):
        stream = train_batches(source, finetune(**COMMON, pad=1, flip=0.0), batch_size=32, seed=1)(3)
        return list(itertools.islice(stream, 2))

    array, old = open_tfds("digits", "train", digits_dir), open_tfds("old_digits", "train", tfrecord_dir)
    assert array.classes == old.classes and array.size == old.size
    prepared = ("digits", digits_dir), ("old_digits", tfrecord_dir)
    by_bytes = [sorted(open_records(open_builder(*where), ["train"]).read(range(1437))) for where in prepared]
    assert by_bytes[0] == by_bytes[1]
    np.testing.assert_array_equal(np.sort(array.labels), np.sort(old.labels))
    for batch in batches(old):
        np.testing.assert_array_equal(batch["label"], old.labels[batch["index"]])


def test_reading_one_by_one_equals_reading_from_memory(tfrecord_dir, monkeypatch):
    held = open_tfds("old_digits", "train", tfrecord_dir)
    monkeypatch.setattr(records, "IN_MEMORY", 0)
    read = open_tfds("old_digits", "train", tfrecord_dir)
    one = train_batches(held, finetune(**COMMON), batch_size=16, seed=0)(0)
    other = train_batches(read, finetune(**COMMON), batch_size=16, seed=0)(0)
    for a, b in itertools.islice(zip(one, other, strict=True), 2):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def write_shards(folder, counts):
    paths, written = [], []
    for number, count in enumerate(counts):
        path = str(folder / f"x-{number}.tfrecord")
        with tf.io.TFRecordWriter(path) as writer:
            for i in range(count):
                record = bytes([number]) * (i * 7 + 1)
                writer.write(record)
                written.append(record)
        paths.append(path)
    return paths, written


def test_index_finds_every_record_and_is_made_once(tmp_path, monkeypatch):
    paths, written = write_shards(tmp_path, [3, 0, 5])
    read = records._tfrecords(paths)
    assert read.read(range(read.size)) == written
    monkeypatch.setattr(records, "_scan", None)  # a second scan would fail
    assert tfrecord_index(paths)[0].tolist() == [0] * 3 + [2] * 5
    monkeypatch.undo()
    paths, written = write_shards(tmp_path, [4, 1])  # other files under the same names: another index
    read = records._tfrecords(paths)
    assert read.read(range(read.size)) == written


def test_a_cut_record_file_is_named(tmp_path):
    paths, _ = write_shards(tmp_path, [4])
    whole = (tmp_path / "x-0.tfrecord").read_bytes()
    (tmp_path / "x-0.tfrecord").write_bytes(whole[:-6])
    with pytest.raises(InputError, match=r"x-0\.tfrecord is cut off"):
        tfrecord_index(paths)


def test_slices_of_splits(digits_dir):
    part = open_tfds("digits", "train[10:20]", digits_dir)
    whole = open_tfds("digits", "train", digits_dir)
    assert (
        part.size == 10
        and part.ids() == whole.ids()[10:20]
        and open_tfds("digits", "train[:10%]", digits_dir).size == 144
    )
    np.testing.assert_array_equal(part.labels, whole.labels[10:20])
    image, label = part.load(part.rows[0])
    assert tf.function(decode)(image, 1).shape == (8, 8, 1) and label == part.labels[0]


@pytest.mark.parametrize("old", [False, True])
def test_sums_of_splits(digits_dir, tfrecord_dir, old, monkeypatch):
    """Rows of the parts one after another, in both formats: names, labels and images are those of the parts."""
    name, where = ("old_digits", tfrecord_dir) if old else ("digits", digits_dir)
    parts = [open_tfds(name, split, where) for split in ("validation[:5]", "train[7:10]", "validation[-4:]")]
    both = open_tfds(name, "validation[:5]+train[7:10]+validation[-4:]", where)
    assert both.ids() == [row for part in parts for row in part.ids()]
    assert both.ids()[5] == f"{name}/train#7" and both.ids()[-1] == f"{name}/validation#359"
    np.testing.assert_array_equal(both.labels, np.concatenate([part.labels for part in parts]))
    assert digests(both) == [example for part in parts for example in digests(part)]
    assert open_tfds(name, "train+validation", where).size == 1797
    assert open_tfds(name, "validation + train", where).fingerprint != both.fingerprint
    monkeypatch.setattr(records, "IN_MEMORY", 0)
    assert digests(open_tfds(name, "validation[:5]+train[7:10]", where)) == digests(both)[:8]


@pytest.mark.parametrize(
    ("name", "split", "line"),
    [
        ("digist", "train", "unknown data set 'digist' .did you mean 'digits'"),
        ("cifar10", "train", "'cifar10' is not prepared in .*lvit prepare --source=cifar10"),
        ("cifar1O", "train", "unknown data set 'cifar1O' .did you mean 'cifar10"),
        ("digits", "tran", "unknown split of 'digits' 'tran'.*valid: train, validation"),
        ("digits", "train[:x]", "cannot read split"),
        ("digits", "train+validaton", "unknown split of 'digits' 'validaton' .did you mean 'validation'"),
        ("digits", "train+validation[x:]", "cannot read split"),
    ],
)
def test_mistakes_get_one_line(digits_dir, name, split, line):
    with pytest.raises(InputError, match=line) as error:
        open_tfds(name, split, digits_dir)
    assert "\n" not in str(error.value)


def test_a_data_set_without_images_is_refused(tmp_path):
    class Numbers(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        url_infos: ClassVar[dict] = {}

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"x": np.int64}))

        def _split_generators(self, dl_manager):
            return {"train": ((i, {"x": i}) for i in range(3))}

        def _generate_examples(self):
            raise NotImplementedError

    Numbers(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    with pytest.raises(InputError, match=r"'numbers' has no image among its features \(x\)"):
        open_tfds("numbers", "train", str(tmp_path))
