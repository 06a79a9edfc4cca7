"""PIL's antialiased resize as two small matrix products per block of output rows and columns.

Each output pixel is a weighted sum of a few input pixels (at scale s, 4s of them for bicubic). Neighbouring outputs
share almost all of their inputs, so a pass along one axis is a dense product of [O, R] weights with R input lines, for
each block of O outputs. That takes two thirds of the time of TensorFlow's own antialiased kernel (ScaleAndTranslate),
and the image never leaves the graph.
"""

import math

import numpy as np
import tensorflow as tf

BLOCK = 16  # outputs in a block at most: fewer make too many small products, more too many zeros
SUPPORT = {"bicubic": 2.0, "bilinear": 1.0}


def resample(
    image: tf.Tensor, full: tf.Tensor, start: tf.Tensor, size: tuple[int, int], method: str = "bicubic"
) -> tf.Tensor:
    """A window of the resized image, as PIL's resize followed by a crop: mean difference below 0.2 grey levels.

    The two passes are not rounded in between, PIL's are; and PIL clips after the first one too.

    Args:
      image: uint8 [H, W, C].
      full: int32 [2], the height and width that the whole image is resized to.
      start: int32 [2], top and left of the window in the resized image.
      size: height and width of the window.
      method: "bicubic" (a = -0.5) or "bilinear" (a triangle), antialiased.

    Returns:
      uint8 [*size, C].
    """
    channels = image.shape[-1]
    shape = tf.shape(image)[:2]
    source, weights = _bands(shape, full, start, size, SUPPORT[method])
    block = weights.shape[2]
    down, across = (math.ceil(s / block) for s in size)
    # oneDNN builds a kernel for every new shape of a product, which takes as long as the product itself: so there are
    # only some dozens of shapes, in W here and in R from _bands.
    padded = _up(shape[1], 32)
    image = tf.pad(image, [[0, 0], [0, padded - shape[1]], [0, 0]])
    lines = tf.gather(tf.reshape(image, [shape[0], padded * channels]), source[0, :down])  # [G, R, W*C]
    # The product comes out transposed, [G, W*C, O], so that the columns can be gathered as lines in their turn.
    columns = tf.linalg.matmul(tf.cast(lines, tf.float32), weights[0, :down], transpose_a=True, transpose_b=True)
    columns = tf.reshape(columns, [down, padded, channels * block])
    columns = tf.gather(columns, source[1, :across], axis=1)  # [G, G', R, C*O]
    blocks = to_uint8(tf.linalg.matmul(weights[1, None, :across], columns))  # [G, G', O, C*O]
    blocks = tf.transpose(tf.reshape(blocks, [down, across * block * channels, block]), [0, 2, 1])
    return tf.reshape(blocks, [down * block, across * block, channels])[: size[0], : size[1]]


def to_uint8(image: tf.Tensor) -> tf.Tensor:
    """Rounds and clips floats to uint8, as PIL's resize does."""
    # One operation; tf.clip_by_value makes two passes.
    return tf.cast(tf.raw_ops.ClipByValue(t=image + 0.5, clip_value_min=0.0, clip_value_max=255.0), tf.uint8)


def _up(number, multiple):
    """The next multiple."""
    return -(-number // multiple) * multiple


def _bands(shape, full, start, size, support):
    """For both axes at once: the inputs of each block (int32 [2, G, R]) and their weights (float32 [2, G, O, R])."""
    blocks = math.ceil(max(size) / BLOCK)
    block = math.ceil(max(size) / blocks)
    # Positions behind the window repeat the last one, so that no block reaches further than it needs.
    wanted = np.minimum(np.arange(blocks * block)[None], np.array(size)[:, None] - 1)
    scale = tf.cast(shape, tf.float64) / tf.cast(full, tf.float64)
    wide = tf.maximum(scale, 1.0)  # of the kernel: it grows when shrinking, which is the antialiasing
    centre = (tf.cast(wanted + start[:, None], tf.float64) + 0.5) * scale[:, None]  # [2, G*O]
    reach = support * wide[:, None]
    low = tf.maximum(tf.cast(centre - reach + 0.5, tf.int32), 0)
    high = tf.minimum(tf.cast(centre + reach + 0.5, tf.int32), shape[:, None])
    first = tf.reshape(low, [2, blocks, block])[:, :, :1]
    span = tf.range(_up(tf.reduce_max(tf.reshape(high, [2, blocks, block])[:, :, -1:] - first), 8))
    source = first + span  # [2, G, R]
    nearest = (tf.cast(first, tf.float64) + 0.5 - tf.reshape(centre, [2, blocks, block])) / wide[:, None, None]
    step = tf.cast(1 / wide, tf.float32)[:, None, None, None]
    distance = tf.abs(tf.cast(nearest, tf.float32)[..., None] + tf.cast(span, tf.float32) * step)
    inside = (source < shape[:, None, None])[:, :, None]
    weights = tf.where(inside, _kernel(distance, support), 0.0)
    weights /= tf.reduce_sum(weights, -1, keepdims=True)
    return tf.minimum(source, shape[:, None, None] - 1), weights


def _kernel(x, support):
    """Keys' cubic with a = -0.5 (support 2) or the triangle (support 1), at distances x >= 0."""
    if support == 1.0:
        return tf.maximum(1.0 - x, 0.0)
    far = tf.where(x < 2.0, ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0, 0.0)
    return tf.where(x < 1.0, (1.5 * x - 2.5) * x * x + 1.0, far)
