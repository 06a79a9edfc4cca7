"""Every operation of RandAugment against timm's on real JPEGs, and the string that chooses them."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_image
from timm.data import auto_augment

from lvit_jax.data.randaug import OPERATIONS, Policy, parse_randaugment, randaugment
from lvit_jax.errors import InputError

FILL = (124, 116, 104)
GEOMETRIC = {"Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"}


@pytest.fixture(scope="module")
def photos():
    sizes = {"china.jpg": (96, 96), "flower.jpg": (112, 80)}
    return [np.asarray(Image.fromarray(load_sample_image(n)).resize(s)) for n, s in sizes.items()]


def of_timm(name, image, level, sign, monkeypatch):
    monkeypatch.setattr(auto_augment, "_randomly_negate", lambda value: sign * value)
    hparams = {"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC}
    op = auto_augment.AugmentOp(name, prob=1.0, magnitude=level, hparams=hparams)
    return np.asarray(op(Image.fromarray(image)))


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_equals_timm(name, photos, monkeypatch):
    for photo in photos:
        run = tf.function(OPERATIONS[name])
        for level in (0.0, 3.1, 5.5, 9.0, 9.7):
            for sign in (-1.0, 1.0):
                m = tf.constant(level, tf.float64) / 10
                ours = run(tf.constant(photo), m, tf.constant(sign, tf.float64), tf.constant(FILL, tf.uint8)).numpy()
                theirs = of_timm(name, photo, level, sign, monkeypatch)
                difference = np.abs(ours.astype(int) - theirs)
                limit = 0.01 if name in GEOMETRIC else 0.0  # the issue asks for 0.3 of geometric ones
                assert difference.mean() <= limit, (level, sign)


def test_operations_are_timms_increasing_ones():
    names = ["SolarizeIncreasing" if n == "Solarize" else n for n in OPERATIONS]
    assert names == auto_augment._RAND_INCREASING_TRANSFORMS


def test_full_magnitude_posterizes_to_black():
    """Four bits less of four: PIL up to 11 gives black; later ones refuse."""
    black = OPERATIONS["PosterizeIncreasing"](tf.fill([4, 4, 3], tf.constant(200, tf.uint8)), 1.0, 1.0, FILL)
    assert not black.numpy().any()


def test_grey_images_go_through_every_operation(photos):
    grey = tf.constant(photos[0][:, :, :1])
    for name, operation in OPERATIONS.items():
        out = operation(grey, tf.constant(0.5, tf.float64), tf.constant(1.0, tf.float64), tf.constant([7], tf.uint8))
        assert out.shape == grey.shape and out.dtype == tf.uint8, name


@pytest.mark.parametrize("flat", [0, 77, 255])
def test_flat_images_stay_finite(flat):
    image = tf.fill([9, 9, 3], tf.constant(flat, tf.uint8))
    for name in ("AutoContrast", "Equalize"):
        np.testing.assert_array_equal(OPERATIONS[name](image, 0.5, 1.0, FILL), image)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("rand-m10-mstd0.5-inc1", Policy(10, 2, 0.5, 0.5)),
        ("rand-m9-mstd0.5-inc1", Policy(9, 2, 0.5, 0.5)),
        ("rand-inc1-n3-p0.7-m5", Policy(5, 3, 0.7, 0.0)),
    ],
)
def test_strings(text, policy):
    assert parse_randaugment(text) == policy


@pytest.mark.parametrize(
    "text", ["rand-m9", "augmix-m3-inc1", "rand-m9-inc0", "rand-q3-inc1", "rand-m-inc1", "rand-n1.5-inc1", "m9", ""]
)
def test_malformed_strings_are_named(text):
    with pytest.raises(InputError, match=r"rand-m9-mstd0\.5-inc1") as error:
        parse_randaugment(text)
    assert repr(text) in str(error.value) and "\n" not in str(error.value)


def test_half_of_the_layers_do_nothing_and_all_operations_occur(photos):
    """Counts over many seeds on a tiny image: a quarter of the images stays as it was (two layers, half each)."""
    image = tf.constant(photos[0][:24, :24])
    policy = parse_randaugment("rand-m9-mstd0.5-inc1")
    seeds = tf.stack([tf.zeros([400], tf.int64), tf.range(400, dtype=tf.int64) * 64], 1)

    @tf.function
    def run(seeds):
        return tf.map_fn(lambda s: randaugment(image, s, policy, tf.constant(FILL, tf.uint8)), seeds, tf.uint8)

    outputs = run(seeds).numpy()
    same = np.mean([np.array_equal(o, image) for o in outputs])
    assert 0.18 < same < 0.36  # binomial around a quarter, and the few operations that change nothing here
    np.testing.assert_array_equal(outputs[:20], run(seeds[:20]).numpy())
