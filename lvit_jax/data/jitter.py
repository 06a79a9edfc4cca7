"""torchvision's ColorJitter without hue: brightness, contrast and saturation by random factors, in random order.

An operation takes a uint8 image [H, W, C] (C = 3 or 1) and a factor (1 changes nothing), and returns a uint8 image of
the same shape, equal to PIL's ImageEnhance.
"""

from collections.abc import Sequence

import tensorflow as tf

from lvit_jax.data.image import grey
from lvit_jax.data.randaug import blend, mean_grey


def brightness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Away from or towards black."""
    return blend(tf.zeros(image.shape, tf.int32), image, factor)


def contrast(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Away from or towards the mean grey level."""
    return blend(mean_grey(image), image, factor)


def saturation(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Away from or towards grey."""
    return blend(tf.broadcast_to(grey(image), image.shape), image, factor)


OPERATIONS = (brightness, contrast, saturation)


def jitter(image: tf.Tensor, draws: tf.Tensor, strengths: Sequence[float]) -> tf.Tensor:
    """All three operations, each by a factor that is uniform in [1 - s, 1 + s].

    Args:
      image: uint8 [H, W, C].
      draws: float32 [6], uniform in [0, 1): the factors, then three numbers whose ranks are the order.
      strengths: s of brightness, contrast and saturation, at most 1.
    """
    factors = 1 + tf.constant(strengths, tf.float32) * (2 * draws[:3] - 1)
    order = tf.argsort(draws[3:])
    for place in range(len(OPERATIONS)):
        branches = [lambda op=op, f=f, x=image: op(x, f) for op, f in zip(OPERATIONS, tf.unstack(factors), strict=True)]
        image = tf.ensure_shape(tf.switch_case(order[place], branches), image.shape)
    return image
