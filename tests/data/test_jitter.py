"""Colour jitter against torchvision's on PIL images, and the two views that TinyMIM makes of one crop."""

import io
from itertools import permutations

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_image

from lvit_jax.data.jitter import OPERATIONS, jitter
from lvit_jax.data.recipes import RECIPES, VIEWS, mae
from lvit_jax.errors import InputError

functional = pytest.importorskip("torchvision.transforms.functional")
THEIRS = {
    "brightness": functional.adjust_brightness,
    "contrast": functional.adjust_contrast,
    "saturation": functional.adjust_saturation,
}
GREY_LEVELS = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}
SEEDS = [tf.constant([3, 64 * i], tf.int64) for i in range(6)]


@pytest.fixture(scope="module")
def photos():
    images = [Image.fromarray(load_sample_image(name)).resize((96, 64)) for name in ("china.jpg", "flower.jpg")]
    return [*images, images[0].convert("L")]


def pixels(image):
    return np.atleast_3d(np.asarray(image))


@pytest.mark.parametrize("op", OPERATIONS, ids=lambda op: op.__name__)
def test_operation_equals_torchvision(op, photos):
    for photo in photos:
        for factor in (0.0, 0.6, 0.87, 1.0, 1.13, 1.4, 2.0):
            theirs = pixels(THEIRS[op.__name__](photo, factor))
            np.testing.assert_array_equal(op(tf.constant(pixels(photo)), tf.constant(factor)), theirs, err_msg=factor)


def test_jitter_is_torchvisions_in_every_order(photos):
    """torchvision applies the operations in the order of a permutation: here the ranks of the last three draws."""
    run, strengths = tf.function(lambda x, draws: jitter(x, draws, (0.4, 0.3, 0.2))), np.array([0.4, 0.3, 0.2])
    uniform = np.random.default_rng(0).random((6, 3)).astype(np.float32)
    results = []
    for order, draws in zip(permutations(range(3)), uniform, strict=True):
        ranks = np.argsort(order) / 4  # the operation order[0] has the least number
        ours = run(tf.constant(pixels(photos[1])), tf.constant([*draws, *ranks], tf.float32)).numpy()
        expected = photos[1]
        for which in order:
            factor = float(1 + strengths[which] * (2 * draws[which] - 1))
            expected = THEIRS[OPERATIONS[which].__name__](expected, factor)
        assert np.abs(ours.astype(int) - pixels(expected)).max() <= 1
        results.append(ours)
    assert len({result.tobytes() for result in results}) == 6


def png(photo):
    stream = io.BytesIO()
    photo.save(stream, "PNG")
    return tf.constant(stream.getvalue())


@pytest.fixture(scope="module")
def views(photos):
    """[6,2,16,16,3] grey levels of one photo."""
    example = tf.function(RECIPES["tinymim"](image_size=16, **GREY_LEVELS))
    return np.stack([example(png(photos[0]), seed) for seed in SEEDS])


def test_the_teachers_view_is_the_crop_of_mae(views, photos):
    assert VIEWS["tinymim"] == 2 and views.shape == (6, 2, 16, 16, 3) and views.dtype == np.float32
    example = tf.function(mae(image_size=16, crop_scale=(0.2, 1.0), interpolation="bicubic", **GREY_LEVELS))
    np.testing.assert_array_equal(views[:, 0], np.stack([example(png(photos[0]), seed) for seed in SEEDS]))


def test_the_students_view_differs_in_colour_alone(views, photos):
    teacher, student = views[:, 0], views[:, 1]
    assert all(not np.array_equal(a, b) for a, b in zip(teacher, student, strict=True))
    for a, b in zip(teacher, student, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9  # crop and flip are shared
    example = tf.function(RECIPES["tinymim"](image_size=16, jitter=(0.0, 0.0, 0.0), **GREY_LEVELS))
    same = np.stack([example(png(photos[0]), seed) for seed in SEEDS])
    np.testing.assert_array_equal(same[:, 0], same[:, 1])
    np.testing.assert_array_equal(same[:, 0], teacher)


@pytest.mark.parametrize("strengths", [(0.4, 0.4), (0.4, 0.4, 1.5), (-0.1, 0.4, 0.4)])
def test_bad_strengths_are_named(strengths):
    with pytest.raises(InputError, match=r"data\.jitter=\("):
        RECIPES["tinymim"](image_size=16, jitter=strengths, **GREY_LEVELS)
