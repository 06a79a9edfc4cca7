"""torchvision's ColorJitter on PIL images: brightness, contrast, saturation and hue, in PIL's arithmetic.

An operation takes a uint8 image [H, W, C] (C = 3 or 1) and a factor, and returns a uint8 image of the same shape. Hue
passes through an 8-bit HSV, as PIL's; of a grey image (C = 1) saturation and hue are no-ops.
"""

from collections.abc import Callable

import tensorflow as tf

from lvit_jax.data.image import grey
from lvit_jax.data.randaug import blend, mean_grey


def colour_jitter(image: tf.Tensor, strengths: tuple[float, ...], draws: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """torchvision's ColorJitter: brightness, contrast, saturation and hue, in a random order.

    Args:
      image: uint8 [H, W, C].
      strengths: x of factors from [max(0, 1 - x), 1 + x]; hue from [-x, x] of the circle; 0 leaves an operation out.
      draws: float32 [4], uniform, of the factors.
      places: float32 [4], uniform: the operation with the least comes first.
    """
    coloured = image.shape[-1] == 3
    operations = []
    for number, operation in enumerate((brightness, contrast, saturation, hue)):
        x = strengths[number]
        low, high = (-x, x) if operation is hue else (max(0.0, 1 - x), 1 + x)
        used = x > 0 and (coloured or operation in (brightness, contrast))
        operations.append(_bind(operation, low + (high - low) * draws[number]) if used else _same)
    turn = tf.argsort(places)

    def apply(number, image):
        branches = [lambda operation=operation: operation(image) for operation in operations]
        return number + 1, tf.ensure_shape(tf.switch_case(turn[number], branches), image.shape)

    # A loop in the graph: one copy of the operations to trace, not four.
    return tf.while_loop(lambda number, _: number < len(operations), apply, (0, image))[1]


def _bind(operation: Callable, factor: tf.Tensor) -> Callable:
    return lambda image: operation(image, factor)


def _same(image):
    return image


def brightness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Away from black (factor > 1) or towards it (< 1)."""
    return blend(tf.zeros(image.shape, tf.int32), image, factor)


def contrast(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Away from the mean grey level or towards it."""
    return blend(mean_grey(image), image, factor)


def saturation(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Away from the grey image or towards it."""
    return blend(tf.broadcast_to(grey(image), image.shape), image, factor)


def hue(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Turns the hue by `factor` of the circle, in 8 bits as torchvision does with PIL's HSV."""
    h, s, v = rgb_to_hsv(image)
    turned = tf.math.floormod(h + tf.cast(tf.cast(factor, tf.float64) * 255, tf.int32), 256)
    return hsv_to_rgb(turned, s, v)


def rgb_to_hsv(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """PIL's convert("HSV"): uint8 [H, W, 3] -> three int32 [H, W] of 0..255."""
    r, g, b = tf.unstack(tf.cast(image, tf.float32), axis=-1)
    v, low = tf.maximum(r, tf.maximum(g, b)), tf.minimum(r, tf.minimum(g, b))
    spread = tf.where(v > low, v - low, 1.0)
    # PIL computes in double and stores floats between; the truncation at the end shows the difference.
    rc, gc, bc = (tf.cast((v - level) / spread, tf.float64) for level in (r, g, b))
    sector = tf.where(r == v, bc - gc, tf.where(g == v, 2.0 + rc - bc, 4.0 + gc - rc))
    sector = tf.cast(tf.cast(sector, tf.float32), tf.float64)
    turn = tf.cast(tf.math.floormod(sector / 6.0 + 1.0, 1.0), tf.float32)
    h = tf.where(v > low, tf.cast(tf.cast(turn, tf.float64) * 255.0, tf.int32), 0)
    share = tf.cast((v - low) / tf.maximum(v, 1.0), tf.float64)
    return h, tf.cast(share * 255.0, tf.int32), tf.cast(v, tf.int32)


def hsv_to_rgb(h: tf.Tensor, s: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
    """PIL's convert("RGB") of HSV: int32 [H, W] each, of 0..255 -> uint8 [H, W, 3]."""
    turn, share, value = tf.cast(h, tf.float32) * 6 / 255, tf.cast(s, tf.float32) / 255, tf.cast(v, tf.float32)
    sector = tf.floor(turn)
    f = turn - sector
    levels = [value, value * (1 - share), value * (1 - share * f), value * (1 - share * (1 - f))]
    v, p, q, t = (tf.floor(level + 0.5) for level in levels)
    sixth = tf.cast(sector, tf.int32) % 6
    red, green, blue = (v, q, p, p, t, v), (t, v, v, q, p, p), (p, p, t, v, v, q)
    channels = [_chosen(sixth, colour) for colour in (red, green, blue)]
    return tf.cast(tf.stack(channels, axis=-1), tf.uint8)


def _chosen(index, options):
    """options[index] for each pixel: index int32 [H, W], options of [H, W] each."""
    out = options[-1]
    for number, option in enumerate(options[:-1]):
        out = tf.where(index == number, option, out)
    return out
