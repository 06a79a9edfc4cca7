"""The laws of batches: resume == continue, processes only cut, broken images move nothing, nothing skipped is read."""

import itertools
import logging

import numpy as np
import pytest
import tensorflow as tf
from conftest import save_image

from lvit_jax.data.folders import open_folder
from lvit_jax.data.pipeline import eval_batches, train_batches
from lvit_jax.data.recipes import evaluate, finetune
from lvit_jax.errors import InputError, Stopped

COMMON = {"image_size": 16, "mean": (0.5,) * 3, "std": (0.5,) * 3}


def first(batches, count):
    return list(itertools.islice(batches, count))


def equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


@pytest.fixture(scope="module")
def augment():
    return finetune(**COMMON, interpolation="random", randaugment="rand-m9-mstd0.5-inc1", erase=0.5)


@pytest.fixture(scope="module")
def plain():
    return finetune(**COMMON)


@pytest.fixture(scope="module")
def source(folder):
    return open_folder(str(folder), "train")


@pytest.fixture(scope="module")
def reference(source, augment):
    """Seven batches of twelve, more than two epochs of forty."""
    return first(train_batches(source, augment, batch_size=12, seed=5, threads=1)(0), 7)


def test_batch_is_as_promised(reference, source):
    batch = reference[0]
    assert batch["image"].shape == (12, 16, 16, 3) and batch["image"].dtype == np.float32
    assert batch["label"].dtype == np.int32 and batch["index"].dtype == np.int64 and batch["broken"].dtype == np.int32
    np.testing.assert_array_equal(batch["label"], source.labels[batch["index"]])
    index = np.concatenate([b["index"] for b in reference])
    assert sorted(index[:40]) == sorted(index[40:80]) == list(range(40))
    twice = [np.concatenate([b["image"][b["index"] == i] for b in reference[:7]]) for i in range(4)]
    assert all(not np.array_equal(images[0], images[1]) for images in twice)  # another crop in every epoch


@pytest.mark.parametrize("step", [1, 4])
def test_resumed_is_continued(source, augment, reference, step):
    batches = train_batches(source, augment, batch_size=12, seed=5, threads=4)
    for resumed, straight in zip(first(batches(step), 3), reference[step:], strict=False):
        equal(resumed, straight)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_read_slices_of_the_same_batches(source, plain, processes):
    def two(**process):
        return first(train_batches(source, plain, batch_size=12, seed=5, **process)(2), 2)

    parts = [two(process=p, processes=processes) for p in range(processes)]
    for step, whole in enumerate(two()):
        equal({key: np.concatenate([part[step][key] for part in parts]) for key in whole}, whole)


def test_batch_must_divide_over_processes(source, augment):
    with pytest.raises(InputError, match="9 does"):
        train_batches(source, augment, batch_size=10, seed=0, process=0, processes=3)


def counted(source, reads):
    def load(row):
        def note(r):
            reads.append(int(r))
            return r

        return source.load(tf.ensure_shape(tf.numpy_function(note, [row], tf.int64), []))

    return source._replace(load=load)


def test_resuming_reads_nothing_that_was_skipped(source, plain):
    reads = []
    stream = train_batches(counted(source, reads), plain, batch_size=4, seed=5, threads=2)(5)
    taken = [set(next(stream)["index"].tolist()) for _ in range(2)]
    order = [set(b["index"].tolist()) for b in first(train_batches(source, plain, batch_size=4, seed=5)(0), 14)]
    assert taken == order[5:7]
    # Read ahead may be what comes next in the same epoch, but nothing of steps 0 to 4.
    assert not set(reads[: 4 * 5]) & set.union(*order[:5])


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Forty good images and three broken ones of different kinds; a folder with the good ones alone."""
    root = tmp_path_factory.mktemp("damaged")
    for i in range(43):
        save_image(root / "abc"[i % 3] / f"{i:02}.jpg", i)
    whole = (root / "a" / "03.jpg").read_bytes()
    (root / "a" / "03.jpg").write_bytes(whole[: len(whole) // 2])  # truncated
    (root / "b" / "04.jpg").write_bytes(b"")
    (root / "c" / "05.jpg").write_text("this is no picture")
    return root


@pytest.fixture(scope="module")
def damaged_batches(damaged):
    source = open_folder(str(damaged), "train")
    return source, train_batches(source, finetune(**COMMON), batch_size=10, seed=2, max_broken=0.3, threads=2)


def test_broken_images_are_replaced_where_they_stand(damaged_batches, caplog):
    source, batches = damaged_batches
    with caplog.at_level(logging.WARNING):
        seen = first(batches(0), 9)  # two epochs
    bad = {i for i, name in enumerate(source.ids()) if name in ("a/03.jpg", "b/04.jpg", "c/05.jpg")}
    index, flags = (np.concatenate([b[key] for b in seen]) for key in ("index", "broken"))
    assert sorted(index[:43]) == list(range(43))
    assert set(index[flags == 1]) == bad
    assert len([r for r in caplog.records if "broken image" in r.message]) == 3  # each file once
    replaced = np.concatenate([b["image"] for b in seen])[flags == 1]
    assert np.abs(replaced).max(axis=(1, 2, 3)).min() > 0
    whole = source._replace(rows=np.array([row if i not in bad else 0 for i, row in enumerate(source.rows)]))
    sound = train_batches(whole, finetune(**COMMON), batch_size=10, seed=2)(0)
    for batch, other in zip(seen, sound, strict=False):  # the other places do not move
        keep = batch["broken"] == 0
        np.testing.assert_array_equal(batch["image"][keep], other["image"][keep])
        np.testing.assert_array_equal(batch["label"][keep], other["label"][keep])


def test_replacements_are_the_same_after_resuming(damaged_batches):
    _, batches = damaged_batches
    straight = first(batches(0), 6)
    assert sum(b["broken"].sum() for b in straight[3:]) > 0
    for resumed, batch in zip(first(batches(3), 3), straight[3:], strict=True):
        equal(resumed, batch)


def test_too_many_broken_images_stop_the_run(damaged):
    source = open_folder(str(damaged), "train")
    batches = train_batches(source, finetune(**COMMON), batch_size=10, seed=2, max_broken=0.02)
    with pytest.raises(Stopped, match=r"\d+ of \d+ images read from folder:.* are broken \(\d+%\).*max_broken=0.02"):
        first(batches(0), 20)


def test_a_folder_of_broken_images_stops_the_run(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.png").write_text("nothing")
    source = open_folder(str(tmp_path), "train", labels=False)
    with pytest.raises(Stopped, match="all broken"):
        first(train_batches(source, finetune(**COMMON), batch_size=4, seed=0)(0), 1)


def test_mostly_broken_images_still_make_full_batches(tmp_path):
    for i in range(10):
        (tmp_path / f"{i}.jpg").write_text("nothing")
    for i in range(3):
        save_image(tmp_path / f"good{i}.jpg", i)
    source = open_folder(str(tmp_path), "train", labels=False)
    batches = train_batches(source, finetune(**COMMON), batch_size=4, seed=0, max_broken=1.0, threads=2)
    seen = first(batches(0), 12)  # beyond the bound of one feed
    for batch in seen:
        np.testing.assert_array_equal(batch["broken"], batch["index"] < 10)
    for resumed, batch in zip(first(batches(5), 3), seen[5:], strict=False):
        equal(resumed, batch)


def test_evaluation_covers_every_example_once(damaged, caplog):
    source = open_folder(str(damaged), "train")
    transform = evaluate(**COMMON)
    for processes in (1, 2):
        runs = [
            list(eval_batches(source, transform, batch_size=12, process=p, processes=processes)())
            for p in range(processes)
        ]
        assert {len(run) for run in runs} == {4}  # 43 in twelves
        joined = {key: np.concatenate([b[key] for run in runs for b in run]) for key in runs[0][0]}
        counted = joined["index"][joined["mask"] == 1]
        assert len(counted) == 40 and joined["broken"].sum() == 3
        broken = joined["index"][joined["broken"] == 1].tolist()
        assert sorted([*counted.tolist(), *broken]) == list(range(43))
        np.testing.assert_array_equal(joined["label"][joined["mask"] == 1], source.labels[counted])


def test_evaluation_passes_are_equal(source):
    batches = eval_batches(source, evaluate(**COMMON), batch_size=16)
    for a, b in zip(batches(), batches(), strict=True):
        equal(a, b)
