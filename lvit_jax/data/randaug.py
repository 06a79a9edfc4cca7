"""RandAugment with timm's 15 "increasing" operations, equal to PIL's arithmetic (timm/data/auto_augment.py).

An operation takes a uint8 image [H, W, C] (C = 3 or 1), the magnitude m = level / 10 (float64), a sign (-1 or 1) and
the fill colour (uint8 [C]), and returns a uint8 image of the same shape. Pointwise operations equal PIL's exactly;
the geometric ones follow PIL's affine bicubic (a = -1, no antialias, result truncated).
"""

import math
import re
from typing import NamedTuple

import tensorflow as tf

from lvit_jax.data.image import grey
from lvit_jax.errors import InputError


class Policy(NamedTuple):
    """What a RandAugment string says."""

    magnitude: float = 10.0  # level, out of 10
    layers: int = 2
    probability: float = 0.5  # of each layer
    std: float = 0.0  # of the level


def parse_randaugment(text: str) -> Policy:
    """timm's string, such as "rand-m10-mstd0.5-inc1": m, n, p and mstd in any order; inc1 is required.

    Raises:
      InputError: anything else; the line shows an example.
    """
    form = "write it like rand-m9-mstd0.5-inc1 (sections m, n, p, mstd, inc1)"
    head, *sections = text.split("-")
    fields = {"m": "magnitude", "n": "layers", "p": "probability", "mstd": "std", "inc": "increasing"}
    values: dict[str, float] = {}
    for section in sections:
        parts = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?)", section)
        if not parts or parts[1] not in fields or (parts[1] == "n" and "." in parts[2]):
            raise InputError(f"data.randaugment={text!r}: cannot read {section!r}; {form}")
        values[fields[parts[1]]] = int(parts[2]) if parts[1] == "n" else float(parts[2])
    if head != "rand" or values.pop("increasing", 0) != 1:
        raise InputError(f"data.randaugment={text!r}: only the increasing operations of RandAugment are here; {form}")
    if not 0 <= values.get("probability", 0) <= 1 or values.get("std", 0) > 100:
        raise InputError(f"data.randaugment={text!r}: p must be at most 1 and mstd at most 100")
    return Policy(**values)


def randaugment(image: tf.Tensor, seed: tf.Tensor, policy: Policy, fill: tf.Tensor) -> tf.Tensor:
    """Applies `policy.layers` operations drawn with replacement, each with `policy.probability`.

    Args:
      image: uint8 [H, W, C].
      seed: int64 [2].
      policy: what to draw.
      fill: uint8 [C], for what lies outside of the image after a geometric operation.
    """
    draws = tf.random.stateless_uniform([policy.layers, 3], seed, alg="philox")
    # A second stream, far from those of other decisions, for the normal noise of the level.
    noise = tf.random.stateless_normal([policy.layers], seed + tf.constant([1 << 62, 0], tf.int64), alg="philox")
    levels = tf.clip_by_value(policy.magnitude + policy.std * tf.cast(noise, tf.float64), 0.0, 10.0)

    def apply(layer, image):
        wanted, which, side = tf.unstack(draws[layer])
        sign = tf.where(side > 0.5, tf.constant(-1.0, tf.float64), 1.0)
        chosen = tf.minimum(tf.cast(which * len(OPERATIONS), tf.int32), len(OPERATIONS) - 1)
        branch = tf.where(wanted < policy.probability, chosen, len(OPERATIONS))
        operations = [*OPERATIONS.values(), _same]
        branches = [_bind(operation, image, levels[layer] / 10, sign, fill) for operation in operations]
        return layer + 1, tf.ensure_shape(tf.switch_case(branch, branches), image.shape)

    # A loop in the graph: one copy of the operations to trace, not one per layer.
    return tf.while_loop(lambda layer, _: layer < policy.layers, apply, (0, image))[1]


def _bind(operation, image, m, sign, fill):
    return lambda: operation(image, m, sign, fill)


def _same(image, m, sign, fill):
    return image


def auto_contrast(image, m, sign, fill):
    """Stretches each channel to 0..255."""
    low = tf.cast(tf.reduce_min(image, (0, 1)), tf.float64)[:, None]
    high = tf.cast(tf.reduce_max(image, (0, 1)), tf.float64)[:, None]
    levels = tf.range(256, dtype=tf.float64)[None]
    scale = 255.0 / tf.maximum(high - low, 1.0)
    table = tf.clip_by_value(tf.cast(levels * scale + -low * scale, tf.int32), 0, 255)
    return _look_up(image, tf.where(high > low, table, tf.cast(levels, tf.int32)))


def equalize(image, m, sign, fill):
    """Flattens the histogram of each channel."""
    channels = image.shape[-1]
    shifted = tf.cast(image, tf.int32) + 256 * tf.range(channels)
    counts = tf.reshape(tf.math.bincount(tf.reshape(shifted, [-1]), minlength=256 * channels), [channels, 256])
    counts = counts[:, :256]
    # The count of the brightest level that occurs does not enter the step.
    last = tf.gather(counts, tf.cast(tf.reduce_max(image, (0, 1)), tf.int32), batch_dims=1)[:, None]
    step = (tf.reduce_sum(counts, 1, keepdims=True) - last) // 255
    table = (step // 2 + tf.cumsum(counts, 1, exclusive=True)) // tf.maximum(step, 1)
    return _look_up(image, tf.where(step > 0, tf.minimum(table, 255), tf.range(256)[None]))


def invert(image, m, sign, fill):
    """255 - x."""
    return 255 - image


def posterize(image, m, sign, fill):
    """Keeps 4 - int(4m) bits."""
    dropped = tf.cast(8 - (4 - tf.cast(m * 4, tf.int32)), tf.int32)
    wide = tf.cast(image, tf.int32)
    return tf.cast(wide - tf.math.floormod(wide, tf.bitwise.left_shift(1, dropped)), tf.uint8)


def solarize(image, m, sign, fill):
    """Inverts what is not below 256 - int(256m)."""
    threshold = 256 - tf.minimum(256, tf.cast(m * 256, tf.int32))
    return tf.where(tf.cast(image, tf.int32) < threshold, image, 255 - image)


def solarize_add(image, m, sign, fill):
    """Adds int(110m) to what is below 128."""
    wide = tf.cast(image, tf.int32)
    added = tf.minimum(255, wide + tf.minimum(128, tf.cast(m * 110, tf.int32)))
    return tf.cast(tf.where(wide < 128, added, wide), tf.uint8)


def color(image, m, sign, fill):
    """Away from or towards grey, by 1 + 0.9m or 1 - 0.9m; as contrast, brightness and sharpness."""
    return _blend(tf.broadcast_to(grey(image), image.shape), image, m, sign)


def contrast(image, m, sign, fill):
    """Away from or towards the mean grey level."""
    mean = tf.floor(tf.reduce_mean(tf.cast(grey(image), tf.float64)) + 0.5)
    return _blend(tf.cast(tf.fill(image.shape, mean), tf.int32), image, m, sign)


def brightness(image, m, sign, fill):
    """Away from or towards black."""
    return _blend(tf.zeros(image.shape, tf.int32), image, m, sign)


def sharpness(image, m, sign, fill):
    """Away from or towards PIL's SMOOTH filter, a 3x3 kernel with 5 in the middle; the border stays as it is."""
    wide = tf.cast(image, tf.int32)
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * wide[1:-1, 1:-1]
    inner = (2 * total + 13) // 26  # rounded
    smooth = tf.pad(inner - wide[1:-1, 1:-1], [[1, 1], [1, 1], [0, 0]]) + wide
    return _blend(smooth, image, m, sign)


def rotate(image, m, sign, fill):
    """By up to 30 degrees around the centre."""
    high, wide = image.shape[:2]
    angle = -sign * m * 30 * math.pi / 180
    cos, sin = tf.cos(angle), tf.sin(angle)
    y, x = _centres(high)[:, None] - high / 2, _centres(wide)[None] - wide / 2
    return _affine(image, cos * x + sin * y + wide / 2, -sin * x + cos * y + high / 2, fill)


def shear_x(image, m, sign, fill):
    """Shifts row y by up to 0.3 y."""
    return _shift_rows(image, sign * m * 0.3 * _centres(image.shape[0]), fill)


def shear_y(image, m, sign, fill):
    """Shifts column x by up to 0.3 x."""
    return _transposed(shear_x, image, m, sign, fill)


def translate_x(image, m, sign, fill):
    """Shifts by up to 0.45 of the width."""
    high, wide = image.shape[:2]
    return _shift_rows(image, tf.fill([high], sign * m * 0.45 * wide), fill)


def translate_y(image, m, sign, fill):
    """Shifts by up to 0.45 of the height."""
    return _transposed(translate_x, image, m, sign, fill)


OPERATIONS = {
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
    "Invert": invert,
    "Rotate": rotate,
    "PosterizeIncreasing": posterize,
    "SolarizeIncreasing": solarize,
    "SolarizeAdd": solarize_add,
    "ColorIncreasing": color,
    "ContrastIncreasing": contrast,
    "BrightnessIncreasing": brightness,
    "SharpnessIncreasing": sharpness,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateXRel": translate_x,
    "TranslateYRel": translate_y,
}


def _look_up(image, table):
    """table int32 [C, 256], one per channel."""
    index = tf.cast(image, tf.int32) + 256 * tf.range(image.shape[-1])
    return tf.cast(tf.gather(tf.reshape(table, [-1]), index), tf.uint8)


def _blend(start, image, m, sign):
    """`blend` by 1 ± 0.9m, at least 0.1."""
    return blend(start, image, tf.cast(tf.maximum(tf.constant(0.1, tf.float64), 1.0 + sign * m * 0.9), tf.float32))


def blend(start: tf.Tensor, image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """PIL's Image.blend(start, image, factor): float32, clipped, truncated. start: int32 [H, W, C]; factor: float32."""
    difference = tf.cast(tf.cast(image, tf.int32) - start, tf.float32)
    blended = tf.cast(start, tf.float32) + factor * difference
    return tf.cast(tf.clip_by_value(blended, 0.0, 255.0), tf.uint8)


def _centres(size):
    """Pixel centres, float64 [size]."""
    return tf.range(size, dtype=tf.float64) + 0.5


def _transposed(operation, image, m, sign, fill):
    turned = operation(tf.transpose(image, [1, 0, 2]), m, sign, fill)
    return tf.transpose(turned, [1, 0, 2])


def _taps(position, size):
    """Of float64 positions: the indices of four neighbours (int32 [..., 4], edges repeated) and the fraction."""
    first = tf.floor(position - 0.5)
    fraction = tf.cast(position - 0.5 - first, tf.float32)
    index = tf.cast(first, tf.int32)[..., None] + tf.range(-1, 3)
    return tf.clip_by_value(index, 0, size - 1), fraction


def _cubic(v1, v2, v3, v4, d):
    """The BICUBIC macro of PIL's Geometry.c: a = -1."""
    return v2 + d * (v3 - v1 + d * (2 * (v1 - v2) + v3 - v4 + d * (v2 - v1 + v4 - v3)))


def _truncate(values, inside, fill):
    pixels = tf.cast(tf.clip_by_value(values, 0.0, 255.0), tf.uint8)
    return tf.where(inside[..., None], pixels, fill)


def _shift_rows(image, shift, fill):
    """out[y, x] = image[y, x + shift[y]]: interpolation along one axis only. shift: float64 [H]."""
    high, wide = image.shape[:2]
    x = _centres(wide)[None] + shift[:, None]
    index, d = _taps(x, wide)
    taps = tf.gather(tf.cast(image, tf.float32), tf.reshape(index, [high, -1]), axis=1, batch_dims=1)
    v1, v2, v3, v4 = tf.unstack(tf.reshape(taps, [high, wide, 4, -1]), axis=2)
    return _truncate(_cubic(v1, v2, v3, v4, d[..., None]), (x >= 0) & (x < wide), fill)


def _affine(image, x, y, fill):
    """out = image at (x, y), float64 [H, W] each: 4x4 neighbours, rows first as PIL."""
    high, wide = image.shape[:2]
    columns, dx = _taps(x, wide)
    rows, dy = _taps(y, high)
    flat = tf.reshape(tf.cast(image, tf.float32), [high * wide, -1])
    lines = []
    for row in tf.unstack(rows, axis=-1):
        v1, v2, v3, v4 = tf.unstack(tf.gather(flat, row[..., None] * wide + columns), axis=2)
        lines.append(_cubic(v1, v2, v3, v4, dx[..., None]))
    inside = (x >= 0) & (x < wide) & (y >= 0) & (y < high)
    return _truncate(_cubic(*lines, dy[..., None]), inside, fill)
