"""RECIPES: from the bytes of an image file to a normalised float32 image. `data.recipe` names one of them.

A recipe is a function of the config's augmentation fields that returns `example(data, seed) -> float32 [H, W, C]`:
data is the string of the file, seed an int64 [2] that is unique for (seed, epoch, index). Every random decision reads
its own stream of that seed, so an example never depends on threads, batches or processes.
"""

from collections.abc import Callable

import tensorflow as tf

from lvit_jax.data import image as ops
from lvit_jax.data import jitter as jitter_ops
from lvit_jax.data import randaug
from lvit_jax.data.resample import to_uint8
from lvit_jax.errors import InputError, unknown

Example = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
INTERPOLATIONS = ("bicubic", "bilinear", "random")
RESAMPLES = ("exact", "fast")
# Streams of randomness of one example; `pipeline.STREAMS` is how many there may be.
CROP, FLIP, RANDAUGMENT, ERASE, NOISE = range(5)
JITTER = 5


def stream(seed: tf.Tensor, number: int) -> tf.Tensor:
    """The seed of one random decision: int64 [2]."""
    return seed + tf.constant([0, number], tf.int64)


def draw(seed: tf.Tensor, number: int, count: int) -> tf.Tensor:
    """Uniform draws of a stream: float32 [count]; Philox by name, so that no device or version changes them."""
    return tf.random.stateless_uniform([count], stream(seed, number), alg="philox")


def mae(
    *,
    image_size: int | tuple[int, int],
    channels: int = 3,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    crop_scale: tuple[float, float] = (0.08, 1.0),  # MAE-Lite, mae_lite_exp.py; the original MAE has (0.2, 1)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: str = "random",  # MAE-Lite draws bilinear or bicubic
    flip: float = 0.5,
    pad: int = 0,
    resample: str = "exact",
) -> Example:
    """Pre-training: RandomResizedCrop and horizontal flip, nothing else (MAE; MAE-Lite).

    Args:
      image_size: an int or (height, width).
      channels: 3, or 1 for grey.
      mean, std: per channel, of pixels in [0, 1].
      crop_scale, crop_ratio: share of the area and aspect of the crop.
      interpolation: "bicubic", "bilinear", or "random" (one of the two, drawn per image).
      flip: probability of a horizontal flip.
      pad: if not 0, no RandomResizedCrop: the image is resized to image_size, padded by so many zero pixels and
        cropped at random, as is usual for images of 8 to 32 pixels.
      resample: "exact" (as PIL) or "fast" (see `image.resize`).
    """
    return finetune(
        image_size=image_size,
        channels=channels,
        mean=mean,
        std=std,
        crop_scale=crop_scale,
        crop_ratio=crop_ratio,
        interpolation=interpolation,
        flip=flip,
        pad=pad,
        resample=resample,
    )


def finetune(
    *,
    image_size: int | tuple[int, int],
    channels: int = 3,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    crop_scale: tuple[float, float] = (0.08, 1.0),
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: str = "bicubic",
    flip: float = 0.5,
    pad: int = 0,
    randaugment: str | None = None,
    erase: float = 0.0,
    resample: str = "exact",
) -> Example:
    """Fine-tuning as timm: what `mae` does, then RandAugment (uint8), normalisation, random erasing.

    Args:
      randaugment: None, or timm's string, such as "rand-m10-mstd0.5-inc1".
      erase: probability of random erasing with normal noise.
      (the others as in `mae`)
    """
    cut = _crop_and_flip(as_size(image_size), channels, crop_scale, crop_ratio, interpolation, flip, pad, resample)
    policy = randaug.parse_randaugment(randaugment) if randaugment else None
    fill = tf.constant([min(255, round(255 * m)) for m in mean], tf.uint8)  # as timm: the mean colour

    def example(data, seed):
        image = cut(data, seed)
        if policy:
            image = to_uint8(image) if resample == "fast" else image
            image = randaug.randaugment(image, stream(seed, RANDAUGMENT), policy, fill)
        image = ops.normalise(image, mean, std)
        if erase:
            image = ops.erase(image, draw(seed, ERASE, 23), stream(seed, NOISE), erase)
        return image

    return example


def tinymim(
    *,
    image_size: int | tuple[int, int],
    channels: int = 3,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    crop_scale: tuple[float, float] = (0.2, 1.0),
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: str = "bicubic",
    flip: float = 0.5,
    pad: int = 0,
    jitter: tuple[float, float, float] = (0.4, 0.4, 0.4),
    resample: str = "exact",
) -> Example:
    """TinyMIM's two views of one crop (recipes 4.6): the teacher's as `mae`, the student's with colour jitter besides.

    Args:
      jitter: strength of brightness, contrast and saturation, each in [0, 1]; zeros for two equal views, as the
        paper's text (but not its code) has them.
      (the others as in `mae`)

    Returns:
      example(data, seed) -> float32 [2,H,W,C]: the teacher's view, the student's.
    """
    cut = _crop_and_flip(as_size(image_size), channels, crop_scale, crop_ratio, interpolation, flip, pad, resample)
    if len(jitter) != 3 or not all(0 <= strength <= 1 for strength in jitter):
        raise InputError(f"data.jitter={tuple(jitter)} is not (brightness, contrast, saturation), each in [0, 1]")

    def example(data, seed):
        image = to_uint8(cut(data, seed)) if resample == "fast" else cut(data, seed)
        views = (image, jitter_ops.jitter(image, draw(seed, JITTER, 6), jitter))
        return tf.stack([ops.normalise(view, mean, std) for view in views])

    return example


def evaluate(
    *,
    image_size: int | tuple[int, int],
    channels: int = 3,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    eval_crop: float = 0.875,
    resample: str = "exact",
) -> Example:
    """Evaluation: short side to floor(size / eval_crop), bicubic, centre crop. The seed is not used."""
    size = as_size(image_size)
    _check("bicubic", resample, 0)
    if not 0 < eval_crop <= 1:
        raise InputError(f"data.eval_crop={eval_crop} is not a share of the image in (0, 1]")

    def example(data, seed):
        del seed
        image = ops.eval_crop(ops.decode(data, channels), size, eval_crop, resample)
        return ops.normalise(image, mean, std)

    return example


RECIPES = {"mae": mae, "finetune": finetune, "tinymim": tinymim, "eval": evaluate}
# Views of an image that a recipe gives: with more than one, an example is [views,H,W,C].
VIEWS = {"mae": 1, "finetune": 1, "tinymim": 2, "eval": 1}


def as_size(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an int or a pair."""
    high, wide = (image_size, image_size) if isinstance(image_size, int) else image_size
    return int(high), int(wide)


def _crop_and_flip(size, channels, crop_scale, crop_ratio, interpolation, flip, pad, resample) -> Example:
    """example(data, seed) -> the image before colours are touched: uint8 [H, W, C] (float32 if fast), 0..255."""
    _check(interpolation, resample, pad)
    _check_range("crop_scale", crop_scale, 1.0)
    _check_range("crop_ratio", crop_ratio, float("inf"))

    def example(data, seed):
        if pad:
            image = ops.resize(ops.decode(data, channels), size, "bicubic", resample)
            image = ops.pad_crop(image, draw(seed, CROP, 2), pad)
        else:
            draws = draw(seed, CROP, 23)
            image = ops.decode_crop(data, channels, draws, crop_scale, crop_ratio, resample)
            image = _interpolate(image, size, interpolation, resample, draws[22])
        if not flip:
            return image
        flipped = draw(seed, FLIP, 1)[0] < flip
        return tf.cond(flipped, lambda: tf.reverse(image, [1]), lambda: image)

    return example


def _interpolate(image, size, interpolation, resample, drawn):
    """Resizes by the named method, or by one drawn for this image."""
    if interpolation != "random" or resample == "fast":
        return ops.resize(image, size, interpolation, resample)
    bicubic, bilinear = (lambda m=m: ops.resize(image, size, m) for m in ("bicubic", "bilinear"))
    return tf.cond(drawn < 0.5, bicubic, bilinear)


def _check(interpolation, resample, pad):
    if interpolation not in INTERPOLATIONS:
        raise unknown("data.interpolation", interpolation, INTERPOLATIONS)
    if resample not in RESAMPLES:
        raise unknown("data.resample", resample, RESAMPLES)
    if pad < 0:
        raise InputError(f"data.pad={pad} is negative")


def _check_range(name, pair, most):
    if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= most:
        upper = "" if most == float("inf") else f" <= {most:g}"
        raise InputError(f"data.{name}={tuple(pair)} is not (least, greatest) with 0 < least <= greatest{upper}")
