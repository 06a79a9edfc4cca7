"""What recipes share: streams of random draws, sizes, and the random crop with its checks."""

from collections.abc import Callable

import tensorflow as tf

from lvit_jax.data import image as ops
from lvit_jax.errors import InputError, unknown

Example = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
INTERPOLATIONS = ("bicubic", "bilinear", "random")
RESAMPLES = ("exact", "fast")


def stream(seed: tf.Tensor, number: int) -> tf.Tensor:
    """The seed of one random decision: int64 [2]."""
    return seed + tf.constant([0, number], tf.int64)


def draw(seed: tf.Tensor, number: int, count: int) -> tf.Tensor:
    """Uniform draws of a stream: float32 [count]; Philox by name, so that no device or version changes them."""
    return tf.random.stateless_uniform([count], stream(seed, number), alg="philox")


def as_size(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an int or a pair."""
    high, wide = (image_size, image_size) if isinstance(image_size, int) else image_size
    return int(high), int(wide)


def random_crop(
    data: tf.Tensor,
    draws: tf.Tensor,
    size: tuple[int, int],
    channels: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    interpolation: str,
    pad: int,
    resample: str,
) -> tf.Tensor:
    """RandomResizedCrop of the bytes of an image file; with `pad` instead the whole image, shifted by up to that much.

    Args:
      draws: float32 [23], uniform in [0, 1); of a shift only the first 2 are read.
      (the others as the config's fields of the recipes)

    Returns:
      [*size, channels]: uint8, or float32 grey levels where resample is "fast".
    """
    if pad:
        image = ops.resize(ops.decode(data, channels), size, "bicubic", resample)
        return ops.pad_crop(image, draws[:2], pad)
    image = ops.decode_crop(data, channels, draws, scale, ratio, resample)
    return _interpolate(image, size, interpolation, resample, draws[22])


def _interpolate(image, size, interpolation, resample, drawn):
    """Resizes by the named method, or by one drawn for this image."""
    if interpolation != "random" or resample == "fast":
        return ops.resize(image, size, interpolation, resample)
    bicubic, bilinear = (lambda m=m: ops.resize(image, size, m) for m in ("bicubic", "bilinear"))
    return tf.cond(drawn < 0.5, bicubic, bilinear)


def check_crop(scale, ratio, interpolation, resample, pad) -> None:
    """Raises InputError for fields of `random_crop` that are out of range or unknown."""
    if interpolation not in INTERPOLATIONS:
        raise unknown("data.interpolation", interpolation, INTERPOLATIONS)
    if resample not in RESAMPLES:
        raise unknown("data.resample", resample, RESAMPLES)
    if pad < 0:
        raise InputError(f"data.pad={pad} is negative")
    check_range("crop_scale", scale, 1.0)
    check_range("crop_ratio", ratio, float("inf"))


def check_range(name: str, pair: tuple[float, float], most: float) -> None:
    """Raises InputError where data.NAME is no pair of rising positive numbers up to `most`."""
    if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= most:
        upper = "" if most == float("inf") else f" <= {most:g}"
        raise InputError(f"data.{name}={tuple(pair)} is not (least, greatest) with 0 < least <= greatest{upper}")
