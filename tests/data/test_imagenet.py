"""ImageNet's classes against timm's and tfds' lists, and which output of a model stands for each."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from lvit_jax.data import imagenet


def lines(package, path):
    """A text file inside an installed package, which is not imported."""
    return (Path(importlib.util.find_spec(package).submodule_search_locations[0]) / path).read_text().split()


def test_the_order_is_that_of_timm_and_tfds():
    assert list(imagenet.wnids()) == lines("timm", "data/_info/imagenet_synsets.txt")
    assert list(imagenet.wnids()) == lines("tensorflow_datasets", "datasets/imagenet2012/labels.txt")[:1000]


@pytest.mark.parametrize("mark", ["a", "r"])
def test_the_subsets_are_timms(mark):
    labels = imagenet.subset(mark)
    assert [imagenet.wnids()[label] for label in labels] == lines("timm", f"data/_info/imagenet_{mark}_synsets.txt")
    assert list(labels) == list(map(int, lines("timm", f"data/_info/imagenet_{mark}_indices.txt")))


def test_a_and_r_share_86_classes():
    assert len(np.intersect1d(imagenet.subset("a"), imagenet.subset("r"))) == 86
    assert len(imagenet.subset("")) == 1000


def test_outputs_by_wordnet_id_in_any_order():
    order = np.random.default_rng(0).permutation(1000)
    classes = [imagenet.wnids()[i] for i in order] + ["1000"]  # a head larger than the data
    np.testing.assert_array_equal(np.array(order)[imagenet.outputs(classes)], np.arange(1000))


def test_outputs_by_number_even_where_folders_were_sorted_as_text():
    numbers = [str(i) for i in range(1000)]
    np.testing.assert_array_equal(imagenet.outputs(numbers), np.arange(1000))
    assert imagenet.outputs(sorted(numbers))[10] == sorted(numbers).index("10") != 10
    for count in (999, 1001, 21841):  # other numbers are not ImageNet's
        assert (imagenet.outputs([str(i) for i in range(count)]) == -1).all()


def test_outputs_by_wordnets_names():
    names = [line.split("\t")[2] for line in imagenet.LINES.read_text().splitlines()]
    assert names[0] == "tench, Tinca tinca" and names.count("crane") == 2
    np.testing.assert_array_equal(imagenet.outputs(names), np.arange(1000))
    np.testing.assert_array_equal(imagenet.outputs([name.split(", ")[0].title() for name in names]), np.arange(1000))


def test_outputs_of_a_part():
    found = imagenet.outputs(["ant", "n01443537", "n01440764"])
    assert list(found[:3]) == [2, 1, -1] and (found >= 0).sum() == 2
