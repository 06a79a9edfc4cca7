"""Evaluation transforms for corrupted images: stored ones, and the 15 corruptions of ImageNet-C made on the way.

The corruptions are those of the package `imagecorruptions` in the version that imgaug's heirs keep up
(`imagecorruptions-imaug`, extra `robust`), and this file is its one door. They are ImageNet-C's algorithms, but not
its images: those were resized by another library and saved as JPEG.
"""

import threading
import zlib
from typing import Any

import numpy as np
import tensorflow as tf

from lvit_jax.data import image as ops
from lvit_jax.data.crops import Example, as_size
from lvit_jax.data.recipes import evaluate
from lvit_jax.data.resample import to_uint8
from lvit_jax.data.source import Source
from lvit_jax.errors import InputError

LEAST = 32  # pixels a side that imagecorruptions takes
_TURN = threading.Lock()  # it draws from numpy's one global generator


def stored(*, image_size: int | tuple[int, int], channels: int = 3, **fields: Any) -> Example:
    """Images of exactly the model's size as they are, without resize and crop; others as `recipes.evaluate`.

    Args: as of `recipes.evaluate`.
    """
    size, whole = as_size(image_size), evaluate(image_size=image_size, channels=channels, **fields)

    def example(data, seed):
        image = ops.decode(data, channels)
        fits = tf.reduce_all(tf.shape(image)[:2] == tf.constant(size))

        def as_it_is():
            return ops.normalise(tf.ensure_shape(image, [*size, channels]), fields["mean"], fields["std"])

        return tf.cond(fits, as_it_is, lambda: whole(data, seed))

    return example


def check_stored(source: Source, image_size: tuple[int, int]) -> None:
    """Raises: InputError, where the first image of a benchmark that must not be resized is not of the model's size."""
    data, _ = source.load(tf.constant(source.rows[0]))
    size = tuple(ops.decode(data, 3).shape[:2])
    if size != tuple(image_size):
        shown, own = ("x".join(map(str, s)) for s in (size, image_size))
        raise InputError(f"the images of {source.name} are {shown} and not to be resized; this model takes {own}")


def corrupted(
    corruption: str,
    severity: int,
    *,
    image_size: int | tuple[int, int],
    channels: int = 3,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    eval_crop: float = 0.875,
    resample: str = "exact",
) -> Example:
    """`recipes.evaluate` with a corruption of the crop before colours are normalised; the same noise in every pass.

    Args:
      corruption, severity: of imagecorruptions; 1 to 5.
      (the others as in `recipes.evaluate`; grey models see the grey of the corrupted colours)

    Raises:
      InputError: a model of images below 32 pixels, or a version of imagecorruptions that cannot make this corruption.
    """
    size = as_size(image_size)
    if min(size) < LEAST:
        raise InputError(f"corruptions need images of {LEAST} pixels a side at least; this model takes {min(size)}")
    try:
        _corrupt(np.zeros([*size, 3], np.uint8), 0, corruption, severity)
    except Exception as error:  # of whatever library it needs: else every image would count as broken
        mend = "pip install --force-reinstall imagecorruptions-imaug"
        raise InputError(f"imagecorruptions cannot make {corruption} here ({error}); `{mend}`") from None

    def example(data, seed):
        image = ops.eval_crop(ops.decode(data, 3), size, eval_crop, resample)
        image = to_uint8(image) if resample == "fast" else image
        noisy = tf.numpy_function(lambda *args: _corrupt(*args, corruption, severity), [image, seed[1]], tf.uint8)
        noisy = tf.ensure_shape(noisy, [*size, 3])
        return ops.normalise(tf.cast(ops.grey(noisy), tf.uint8) if channels == 1 else noisy, mean, std)

    return example


def _corrupt(image: np.ndarray, index: int, corruption: str, severity: int) -> np.ndarray:
    """uint8 [H,W,3] -> the same, corrupted; what is drawn depends on (index, corruption, severity) alone."""
    from imagecorruptions import corrupt

    with _TURN:
        np.random.seed([int(index) % 2**32, zlib.crc32(corruption.encode()), severity])
        # These two have generators of their own.
        own = {"seed": int(np.random.randint(2**31))} if corruption in ("glass_blur", "impulse_noise") else {}
        return corrupt(image, severity=severity, corruption_name=corruption, **own)
