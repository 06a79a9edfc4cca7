"""RECIPES: from the bytes of an image file to a normalised float32 image. `data.recipe` names one of them.

A recipe is a function of the config's augmentation fields that returns `example(data, seed) -> float32 [H, W, C]`:
data is the string of the file, seed an int64 [2] that is unique for (seed, epoch, index). Every random decision reads
its own stream of that seed, so an example never depends on threads, batches or processes.
"""

import tensorflow as tf

from lvit_jax.data import image as ops
from lvit_jax.data import randaug
from lvit_jax.data.crops import Example, as_size, check_crop, draw, random_crop, stream
from lvit_jax.data.jitter import colour_jitter
from lvit_jax.data.moco import moco
from lvit_jax.data.resample import to_uint8
from lvit_jax.errors import InputError

# Streams of randomness of one example; `pipeline.STREAMS` is how many there may be.
CROP, FLIP, RANDAUGMENT, ERASE, NOISE, JITTER = range(6)


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
        views = (image, colour_jitter(image, (*jitter, 0.0), *tf.split(draw(seed, JITTER, 8), 2)))
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
    check_crop((1.0, 1.0), (1.0, 1.0), "bicubic", resample, 0)
    if not 0 < eval_crop <= 1:
        raise InputError(f"data.eval_crop={eval_crop} is not a share of the image in (0, 1]")

    def example(data, seed):
        del seed
        image = ops.eval_crop(ops.decode(data, channels), size, eval_crop, resample)
        return ops.normalise(image, mean, std)

    return example


RECIPES = {"mae": mae, "finetune": finetune, "tinymim": tinymim, "moco": moco, "eval": evaluate}
# Views of an image that a recipe gives: with more than one, an example is [views,H,W,C].
VIEWS = {"mae": 1, "finetune": 1, "tinymim": 2, "moco": 2, "eval": 1}


def _crop_and_flip(size, channels, crop_scale, crop_ratio, interpolation, flip, pad, resample) -> Example:
    """example(data, seed) -> the image before colours are touched: uint8 [H, W, C] (float32 if fast), 0..255."""
    check_crop(crop_scale, crop_ratio, interpolation, resample, pad)

    def example(data, seed):
        draws = draw(seed, CROP, 2 if pad else 23)
        image = random_crop(data, draws, size, channels, crop_scale, crop_ratio, interpolation, pad, resample)
        if not flip:
            return image
        flipped = draw(seed, FLIP, 1)[0] < flip
        return tf.cond(flipped, lambda: tf.reverse(image, [1]), lambda: image)

    return example
