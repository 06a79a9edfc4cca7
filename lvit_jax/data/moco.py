"""The two views of MoCo-v3 (recipes 3.1): crop, colour jitter, blur, grey, flip, solarise, in the arithmetic of PIL.

torchvision's transforms and moco-v3's own call PIL, so its rounding is the reference: colours pass through an 8-bit
HSV, and the Gaussian blur is three box blurs. Images are uint8 [H, W, C]; of a grey one (C = 1) hue, saturation and the
conversion to grey are no-ops.
"""

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from lvit_jax.data import image as ops
from lvit_jax.data.crops import Example, as_size, check_crop, check_range, draw, random_crop
from lvit_jax.data.jitter import colour_jitter
from lvit_jax.data.resample import to_uint8
from lvit_jax.errors import InputError, unknown

ORDERS = {
    "mae_lite": ("jitter", "blur", "grey", "flip", "solarise"),
    "official": ("jitter", "grey", "blur", "solarise", "flip"),
}
STREAM = 8  # of the first view; the second has the next
DRAWS = 37  # of a view: 23 for the crop, then those of `_view`


def moco(
    *,
    image_size: int | tuple[int, int],
    channels: int = 3,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    crop_scale: tuple[float, float] = (0.08, 1.0),
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: str = "bilinear",
    flip: float = 0.5,
    pad: int = 0,
    resample: str = "exact",
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1),
    jitter_p: float = 0.8,
    blur_p: tuple[float, float] = (1.0, 0.1),
    blur_sigma: tuple[float, float] = (0.1, 2.0),
    grey_p: float = 0.2,
    solarise_p: tuple[float, float] = (0.0, 0.2),
    order: str = "mae_lite",
) -> Example:
    """Two views of an image: examples are float32 [2, H, W, C], normalised.

    Args:
      jitter: strengths of brightness, contrast, saturation and hue; all four in an order drawn per view, or none.
      jitter_p, grey_p: probabilities, the same for both views.
      blur_p, solarise_p: probabilities for view 1 and view 2.
      blur_sigma: least and greatest radius of the blur in pixels.
      order: "mae_lite" or "official"; what follows the jitter commutes but for rounding.
      (the others as in `recipes.mae`)

    Raises:
      InputError: an unknown order, a probability outside [0, 1], strengths or radii out of range.
    """
    size = as_size(image_size)
    check_crop(crop_scale, crop_ratio, interpolation, resample, pad)
    _check(jitter, (flip, jitter_p, grey_p, *blur_p, *solarise_p), blur_p, solarise_p, blur_sigma, order)

    def view(data, seed, number):
        draws = draw(seed, STREAM + number, DRAWS)
        image = random_crop(data, draws[:23], size, channels, crop_scale, crop_ratio, interpolation, pad, resample)
        image = to_uint8(image) if resample == "fast" else image
        sigma = blur_sigma[0] + (blur_sigma[1] - blur_sigma[0]) * draws[33]
        steps = {
            "jitter": (jitter_p, draws[23], lambda x: colour_jitter(x, jitter, draws[24:28], draws[28:32])),
            "blur": (blur_p[number], draws[32], lambda x: gaussian_blur(x, sigma, blur_sigma[1])),
            "grey": (grey_p, draws[34], to_grey),
            "solarise": (solarise_p[number], draws[35], solarise),
            "flip": (flip, draws[36], lambda x: tf.reverse(x, [1])),
        }
        for name in ORDERS[order]:
            image = _perhaps(*steps[name], image)
        return ops.normalise(image, mean, std)

    return lambda data, seed: tf.stack([view(data, seed, 0), view(data, seed, 1)])


def _perhaps(probability: float, drawn: tf.Tensor, operation: Callable, image: tf.Tensor) -> tf.Tensor:
    if probability in (0.0, 1.0):
        return operation(image) if probability else image
    return tf.ensure_shape(tf.cond(drawn < probability, lambda: operation(image), lambda: image), image.shape)


def to_grey(image: tf.Tensor) -> tf.Tensor:
    """The grey image in all channels."""
    return tf.cast(tf.broadcast_to(ops.grey(image), image.shape), tf.uint8)


def solarise(image: tf.Tensor) -> tf.Tensor:
    """Inverts levels from 128 on."""
    return tf.where(image < 128, image, 255 - image)


def gaussian_blur(image: tf.Tensor, sigma: tf.Tensor, most: float) -> tf.Tensor:
    """PIL's ImageFilter.GaussianBlur: three box blurs along each axis, rounded to grey levels after each.

    Args:
      image: uint8 [H, W, C].
      sigma: float32 [], of the Gaussian, in pixels.
      most: a bound on sigma, which sizes the program.
    """
    reach = math.floor(_box_radius(np.float32(most))) + 1
    radius = _box_radius(tf.cast(sigma, tf.float32))
    inner = tf.cast(tf.floor(2.0**24 / (2 * radius + 1)), tf.float64)
    whole = tf.cast(tf.floor(radius), tf.float64)
    outer = tf.floor((2.0**24 - (2 * whole + 1) * inner) / 2)
    places = tf.range(reach + 1, dtype=tf.float64)
    # Of the pixel itself and its neighbours, in PIL's fixed point of 24 bits; they add up to 2^24 at most.
    weights = tf.where(places <= whole, inner, tf.where(places == whole + 1, outer, 0.0))  # [reach + 1]
    weights, pixels = tf.cast(weights, tf.int32), tf.cast(image, tf.int32)
    for axis in (1, 0):
        for _ in range(3):
            pixels = _box_blur(pixels, weights, reach, axis)
    return tf.cast(pixels, tf.uint8)


def _box_radius(sigma):
    """The radius of a box whose three-fold blur has variance sigma² (PIL's BoxBlur.c; Gwosdek et al., SSVM 2011).

    float32, as there: the rounding shows in the weights.
    """
    variance = sigma * sigma / 3
    length = (12 * variance + 1) ** 0.5
    whole = (length - 1) // 2
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    return whole + part / (6 * (variance - (whole + 1) * (whole + 1)))


def _box_blur(pixels: tf.Tensor, weights: tf.Tensor, reach: int, axis: int) -> tf.Tensor:
    """A symmetric filter in fixed point along one axis of int32 [H, W, C] grey levels, edges repeated, rounded.

    Sums reach 255·2^24 and a half: they fit 32 bits without sign, so int32 may wrap and is read as uint32 at the end.
    """
    length = pixels.shape[axis]
    first, last = (pixels[:1], pixels[-1:]) if axis == 0 else (pixels[:, :1], pixels[:, -1:])
    padded = tf.concat([first] * reach + [pixels] + [last] * reach, axis)

    def shifted(by):
        window = slice(reach + by, reach + by + length)
        return padded[window] if axis == 0 else padded[:, window]

    total = pixels * weights[0] + 2**23
    for distance in range(1, reach + 1):
        total += weights[distance] * (shifted(-distance) + shifted(distance))
    rounded = tf.bitwise.right_shift(tf.bitcast(total, tf.uint32), tf.constant(24, tf.uint32))
    return tf.bitcast(rounded, tf.int32)


def _check(jitter, probabilities, blur_p, solarise_p, blur_sigma, order) -> None:
    if order not in ORDERS:
        raise unknown("data.order", order, ORDERS)
    for name, pair in {"blur_p": blur_p, "solarise_p": solarise_p}.items():
        if len(pair) != 2:
            raise InputError(f"data.{name}={tuple(pair)} is no pair (view 1, view 2)")
    for p in probabilities:
        if not 0 <= p <= 1:
            raise InputError(
                f"a probability of {p} in the data section is outside [0, 1]; nearest: {min(1, max(0, p))}"
            )
    if len(jitter) != 4 or min(jitter) < 0 or jitter[3] > 0.5:
        form = "(brightness, contrast, saturation, hue), none below 0, hue at most 0.5"
        raise InputError(f"data.jitter={tuple(jitter)} is not {form}")
    check_range("blur_sigma", blur_sigma, float("inf"))
