"""Image operations against PIL, torchvision and timm."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf
import torch
from PIL import Image
from scipy.stats import ks_2samp
from sklearn.datasets import load_sample_image
from timm.data.random_erasing import RandomErasing
from torchvision import transforms

from lvit_jax.data import image as ops
from lvit_jax.data.recipes import draw, evaluate

JPEGS = {n: (Path(sklearn.datasets.__file__).parent / "images" / n).read_bytes() for n in ("china.jpg", "flower.jpg")}
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


# As in the pipeline: inside of a graph.
decode = {channels: tf.function(lambda data, c=channels: ops.decode(data, c)) for channels in (1, 3)}
decode_crop = tf.function(lambda data, draws: ops.decode_crop(data, 3, draws, SCALE, RATIO))


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pil(data, mode="RGB"):
    return np.asarray(Image.open(io.BytesIO(data)).convert(mode))


def mean_difference(a, b):
    return np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).mean()


@pytest.mark.parametrize("name", JPEGS)
def test_jpegs_decode_as_in_pil(name):
    np.testing.assert_array_equal(decode[3](tf.constant(JPEGS[name])), pil(JPEGS[name]))


def photo_files():
    photo = Image.fromarray(load_sample_image("china.jpg")).resize((60, 41))
    deep = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    frames = [photo.convert("P"), photo.rotate(90).convert("P")]
    return {
        "png": encoded(photo, "PNG"),
        "palette": encoded(photo.convert("P"), "PNG"),
        "rgba": encoded(photo.convert("RGBA"), "PNG"),
        "bmp": encoded(photo, "BMP"),
        "webp": encoded(photo, "WEBP", lossless=True),
        "gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "grey jpeg": encoded(photo.convert("L"), "JPEG"),
        "grey png": encoded(photo.convert("L"), "PNG"),
        "cmyk": encoded(photo.convert("CMYK"), "JPEG"),
        "16 bit": encoded(deep, "PNG"),
        "progressive": encoded(photo, "JPEG", progressive=True),
    }


@pytest.mark.parametrize("kind", photo_files())
def test_other_kinds_of_files(kind):
    data = photo_files()[kind]
    image = decode[3](tf.constant(data)).numpy()
    assert image.shape == (41, 60, 3)
    if kind == "16 bit":  # PIL clips these to white; the upper byte is meant
        expected = np.asarray(Image.open(io.BytesIO(data))).astype(int)[..., None].repeat(3, -1) // 256
    else:
        expected = pil(data)
    assert mean_difference(image, expected) < (1.0 if kind == "cmyk" else 0.01)
    single = decode[1](tf.constant(data))
    assert single.shape == (41, 60, 1)
    if kind not in ("16 bit", "cmyk"):
        np.testing.assert_array_equal(single[..., 0], Image.fromarray(pil(data)).convert("L"))


@pytest.mark.parametrize("data", [b"", b"no picture", JPEGS["china.jpg"][:3000], b"\x89PNG\r\n\x1a\nxx"])
def test_what_is_no_image_is_an_error(data):
    with pytest.raises(tf.errors.OpError):
        decode[3](tf.constant(data))
    with pytest.raises(tf.errors.OpError):
        decode_crop(tf.constant(data), draw(tf.zeros([2], tf.int64), 0, 23))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_partly_decoded_crop_equals_the_crop_of_the_whole(subsampling, progressive):
    for name, size in (("china.jpg", (323, 211)), ("flower.jpg", (97, 145))):
        photo = Image.fromarray(load_sample_image(name)).resize(size)
        data = encoded(photo, "JPEG", quality=90, subsampling=subsampling, progressive=progressive)
        whole = tf.constant(pil(data))
        for seed in range(25):
            draws = draw(tf.constant([0, seed], tf.int64), 0, 23)
            expected = ops.crop(whole, ops.crop_window(tf.shape(whole), draws, SCALE, RATIO))
            np.testing.assert_array_equal(decode_crop(tf.constant(data), draws), expected)


@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(224, 224), (56, 80), (300, 17)])
def test_resize_as_pil(method, size):
    for name, shape in (("china.jpg", (640, 427)), ("flower.jpg", (223, 150)), ("china.jpg", (31, 64))):
        photo = Image.fromarray(load_sample_image(name)).resize(shape)
        theirs = photo.resize((size[1], size[0]), getattr(Image.Resampling, method.upper()))
        ours = ops.resize(tf.constant(np.asarray(photo)), size, method)
        assert ours.shape == (*size, 3)
        assert mean_difference(ours, theirs) < 0.3


def test_resize_to_the_own_size_changes_nothing():
    photo = tf.constant(load_sample_image("china.jpg")[:33, :41])
    np.testing.assert_array_equal(ops.resize(photo, (33, 41)), photo)


def test_fast_resize_is_near():
    photo = Image.fromarray(load_sample_image("china.jpg")).resize((320, 240))
    fast = ops.resize(tf.constant(np.asarray(photo)), (224, 224), mode="fast")
    assert 0.3 < mean_difference(fast, photo.resize((224, 224), Image.Resampling.BICUBIC)) < 6.0


@pytest.mark.parametrize(("size", "share"), [(224, 0.875), (224, 1.0), (32, 0.875), (96, 0.9)])
def test_evaluation_transform_as_torchvision(size, share):
    theirs = transforms.Compose(
        [transforms.Resize(math.floor(size / share), transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(size)]
    )
    ours = evaluate(image_size=size, mean=(0.0,) * 3, std=(1 / 255,) * 3, eval_crop=share)  # grey levels come out
    for name, shape in (("china.jpg", (640, 427)), ("flower.jpg", (251, 377)), ("flower.jpg", (40, 33))):
        data = encoded(Image.fromarray(load_sample_image(name)).resize(shape), "PNG")
        got = ours(tf.constant(data), tf.zeros([2], tf.int64)).numpy().round()
        assert mean_difference(got, theirs(Image.open(io.BytesIO(data)))) < 0.3


def test_evaluation_of_other_than_square_sizes():
    photo = tf.constant(load_sample_image("china.jpg"))  # 427 x 640
    crop = ops.eval_crop(photo, (64, 32), 1.0)
    whole = ops.resize(photo, (64, 95))  # int(640 * 64 / 427)
    assert mean_difference(crop, whole[:, 32:64]) < 0.1


@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (60, 400)])
def test_crops_are_distributed_as_torchvisions(shape):
    """Kolmogorov-Smirnov over 10,000 draws of the area and of the logarithm of the aspect."""
    window = tf.function(lambda d: ops.crop_window(tf.constant(shape), d, SCALE, RATIO))
    draws = tf.random.stateless_uniform([10_000, 22], [1, 2])
    ours = tf.map_fn(window, draws, fn_output_signature=tf.int32).numpy()
    image = Image.new("L", shape[::-1])
    torch.manual_seed(0)  # a p-value is below its limit once in a thousand draws
    theirs = np.array([transforms.RandomResizedCrop.get_params(image, SCALE, RATIO) for _ in range(10_000)])
    assert (ours[:, :2] >= 0).all() and (ours[:, 0] + ours[:, 2] <= shape[0]).all()
    assert (ours[:, 1] + ours[:, 3] <= shape[1]).all()
    measures = {
        "area": lambda w: w[:, 2] * w[:, 3],
        "aspect": lambda w: np.log(w[:, 3] / w[:, 2]),
        "top": lambda w: w[:, 0],
        "left": lambda w: w[:, 1],
    }
    for name, measure in measures.items():
        assert ks_2samp(measure(ours), measure(theirs)).pvalue > 1e-3, name


def test_pad_crop_shifts():
    image = tf.constant(np.arange(1, 65, dtype=np.uint8).reshape(8, 8, 1))
    np.testing.assert_array_equal(ops.pad_crop(image, tf.constant([0.5, 0.5]), 1), image)
    shifted = ops.pad_crop(image, tf.constant([0.0, 0.999]), 1).numpy()
    np.testing.assert_array_equal(shifted[1:, :-1], image[:-1, 1:])
    assert not shifted[0].any() and not shifted[:, -1].any()


def test_normalise():
    image = tf.constant([[[0, 51, 255]]], tf.uint8)
    mean, std = (0.5, 0.2, 0.4), (0.25, 0.1, 0.3)
    np.testing.assert_allclose(ops.normalise(image, mean, std), [[[-2, 0, 2]]], atol=1e-6)


def test_erasing_as_timm():
    """One box of noise, in about `probability` of the images, of 2 % to a third of the area as timm's."""
    image = tf.zeros([32, 32, 3])

    @tf.function
    def run(number):
        seed = tf.stack([tf.zeros([], tf.int64), number * 64])
        return ops.erase(image, draw(seed, 3, 23), seed, 0.25)

    out = tf.map_fn(run, tf.range(2000, dtype=tf.int64), fn_output_signature=tf.float32).numpy()
    touched = out[np.abs(out).max(axis=(1, 2, 3)) > 0]
    assert 0.22 < len(touched) / 2000 < 0.28
    boxes = (touched != 0).any(-1)
    for box in boxes[:50]:
        rows, columns = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
        assert box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all() and box.sum() == len(rows) * len(columns)
    eraser = RandomErasing(probability=1.0, mode="pixel", device="cpu")
    theirs = [(eraser(torch.zeros(3, 32, 32)) != 0).any(0).sum().item() for _ in range(500)]
    assert ks_2samp(boxes.sum((1, 2)), theirs).pvalue > 1e-3
    noise = touched[touched != 0]
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
