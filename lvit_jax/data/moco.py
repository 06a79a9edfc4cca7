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
from lvit_jax.data.randaug import blend
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
    mean = tf.floor(tf.reduce_mean(tf.cast(ops.grey(image), tf.float64)) + 0.5)
    return blend(tf.fill(image.shape, tf.cast(mean, tf.int32)), image, factor)


def saturation(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Away from the grey image or towards it."""
    return blend(tf.broadcast_to(ops.grey(image), image.shape), image, factor)


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
    # Of the pixel itself and its neighbours, in PIL's fixed point. Doubles, as the sums are often close to a half.
    weights = tf.where(places <= whole, inner, tf.where(places == whole + 1, outer, 0.0))  # [reach + 1]
    pixels = tf.cast(image, tf.float64)
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
    """A symmetric filter in fixed point along one axis of float64 [H, W, C], edges repeated, rounded."""
    length = pixels.shape[axis]
    total = pixels * weights[0]
    for distance in range(1, reach + 1):
        before, after = (np.clip(np.arange(length) + d, 0, length - 1) for d in (-distance, distance))
        total += weights[distance] * (tf.gather(pixels, before, axis=axis) + tf.gather(pixels, after, axis=axis))
    return tf.floor(total / 2.0**24 + 0.5)


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
