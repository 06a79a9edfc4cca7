"""The two views that TinyMIM makes of one crop; the jitter itself is held against torchvision in test_moco_views."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_image

from lvit_jax.data.recipes import RECIPES, VIEWS, mae
from lvit_jax.errors import InputError

GREY_LEVELS = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}
SEEDS = [tf.constant([3, 64 * i], tf.int64) for i in range(6)]


@pytest.fixture(scope="module")
def photos():
    images = [Image.fromarray(load_sample_image(name)).resize((96, 64)) for name in ("china.jpg", "flower.jpg")]
    return [*images, images[0].convert("L")]


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
