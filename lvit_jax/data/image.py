"""Stateless image operations in TensorFlow: an image and the random numbers it needs come in, an image goes out.

Images are uint8 [H, W, C] (C = 3 or 1) until `normalise`. PIL, torchvision and timm are the reference.
"""

import io
import math

import numpy as np
import tensorflow as tf

from lvit_jax.data.resample import resample, to_uint8

# (mean, std) of pixels in [0, 1], per channel; a single value serves any number of channels.
STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "digits": ((0.3053,), (0.3763,)),  # of the 1,437 training digits
    "half": ((0.5,), (0.5,)),  # to [-1, 1]
}
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


def decode(data: tf.Tensor, channels: int) -> tf.Tensor:
    """Bytes of an image file -> uint8 [H, W, channels]; fails on what is no image or a truncated one.

    INTEGER_ACCURATE makes JPEGs equal to PIL's; tf's default differs by 1.2 grey levels on average. Other formats
    than JPEG and PNG go through PIL (the first frame of an animation), which knows more variants than tf does.
    """
    head = tf.strings.substr(data, 0, 8)
    cases = [
        (tf.strings.substr(head, 0, 3) == JPEG, lambda: tf.io.decode_jpeg(data, 3, dct_method="INTEGER_ACCURATE")),
        (head == PNG, lambda: tf.io.decode_png(data, 3)),
    ]
    image = tf.case(cases, default=lambda: tf.numpy_function(_pil_decode, [data], tf.uint8))
    return _with_channels(image, channels)


def decode_crop(
    data: tf.Tensor, channels: int, draws: tf.Tensor, scale: tuple, ratio: tuple, mode: str = "exact"
) -> tf.Tensor:
    """`decode` and the window that `crop_window` takes of it; of a JPEG only what the window needs is decoded.

    mode "fast" does without the margin that keeps chroma exact at the edges.
    """

    def jpeg():
        shape = tf.image.extract_jpeg_shape(data)
        window = crop_window(shape, draws, scale, ratio)
        if mode == "fast":
            return tf.io.decode_and_crop_jpeg(data, window, 3, dct_method="INTEGER_ACCURATE")
        return _decode_window(data, shape, window)

    def other():
        image = decode(data, 3)
        return crop(image, crop_window(tf.shape(image), draws, scale, ratio))

    # A JPEG without its end marker may be truncated, which only a full decode notices.
    whole = (tf.strings.substr(data, 0, 3) == JPEG) & (tf.strings.substr(data, -2, 2) == b"\xff\xd9")
    return _with_channels(tf.cond(whole, jpeg, other), channels)


def _decode_window(data, shape, window):
    """The window of a JPEG, equal to a crop of the whole: decoded with a margin, at blocks of 16 pixels.

    At the edge of a partial decode the upsampling of chroma lacks its neighbours; the margin keeps that outside.
    """
    corner = tf.maximum(window[:2] - 16, 0) // 16 * 16
    end = tf.minimum((window[:2] + window[2:] + 31) // 16 * 16, shape[:2])
    area = tf.concat([corner, end - corner], 0)
    part = tf.io.decode_and_crop_jpeg(data, area, 3, dct_method="INTEGER_ACCURATE")
    return crop(part, tf.concat([window[:2] - corner, window[2:]], 0))


def _pil_decode(raw: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(raw)) as image:
        return np.asarray(image.convert("RGB"))


def _with_channels(image, channels):
    image = tf.ensure_shape(image, [None, None, 3])
    return tf.cast(grey(image), tf.uint8) if channels == 1 else image


def grey(image: tf.Tensor) -> tf.Tensor:
    """PIL's conversion to mode L: uint8 [H, W, 3 or 1] -> int32 [H, W, 1]; grey levels stay as they are."""
    wide = tf.cast(image, tf.int32)
    if image.shape[-1] == 1:
        return wide
    weighted = tf.reduce_sum(wide * tf.constant([19595, 38470, 7471]), -1, keepdims=True)
    return tf.bitwise.right_shift(weighted + 0x8000, 16)


def crop_window(shape: tf.Tensor, draws: tf.Tensor, scale: tuple, ratio: tuple) -> tf.Tensor:
    """The window of a RandomResizedCrop by torchvision's `get_params`: int32 [4] = top, left, height, width.

    Args:
      shape: int32 [2+], height and width of the image.
      draws: float32 [22], uniform in [0, 1): ten tries of (area, log aspect), then top and left.
      scale: least and greatest share of the area.
      ratio: least and greatest aspect (width / height).
    """
    high, wide = tf.cast(shape[0], tf.float32), tf.cast(shape[1], tf.float32)
    area = high * wide * (scale[0] + (scale[1] - scale[0]) * draws[0:10])
    aspect = tf.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * draws[10:20])
    widths, heights = tf.round(tf.sqrt(area * aspect)), tf.round(tf.sqrt(area / aspect))
    fits = (widths > 0) & (widths <= wide) & (heights > 0) & (heights <= high)
    # The fall-back: the largest centred window whose aspect is within bounds.
    centre_h, centre_w = tf.minimum(high, tf.round(wide / ratio[0])), tf.minimum(wide, tf.round(high * ratio[1]))
    centred = tf.stack([(high - centre_h) // 2, (wide - centre_w) // 2, centre_h, centre_w])
    first = tf.argmax(fits)
    h, w = heights[first], widths[first]
    # The product may round up to the very end of the range.
    top = tf.minimum(tf.floor(draws[20] * (high - h + 1)), high - h)
    left = tf.minimum(tf.floor(draws[21] * (wide - w + 1)), wide - w)
    return tf.cast(tf.where(tf.reduce_any(fits), tf.stack([top, left, h, w]), centred), tf.int32)


def crop(image: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """The pixels of a window (top, left, height, width)."""
    top, left, high, wide = tf.unstack(window)
    return image[top : top + high, left : left + wide]


def resize(image: tf.Tensor, size: tuple[int, int], method: str = "bicubic", mode: str = "exact") -> tf.Tensor:
    """uint8 [H, W, C] -> [*size, C]: as PIL's antialiased resize (uint8), or fast.

    mode "fast" is bilinear without antialiasing and without rounding (float32): about 1.7 grey levels of mean
    difference on ImageNet crops, for nearly twice the speed of the whole pipeline.
    """
    if mode == "fast":
        return tf.image.resize(image, size, "bilinear")

    def enlarge():  # nothing to antialias: TensorFlow's plain kernel is the same sum, in half the time
        return to_uint8(tf.image.resize(image, size, method))

    def shrink():
        return resample(image, tf.constant(size), tf.zeros([2], tf.int32), size, method)

    larger = tf.reduce_all(tf.shape(image)[:2] <= tf.constant(size))
    return tf.ensure_shape(tf.cond(larger, enlarge, shrink), [*size, image.shape[-1]])


def pad_crop(image: tf.Tensor, draws: tf.Tensor, pad: int) -> tf.Tensor:
    """Zero padding on all sides, then a random crop of the old size: a shift by up to `pad` pixels. draws: [2]."""
    size = image.shape
    top, left = tf.unstack(tf.cast(tf.floor(draws * (2 * pad + 1)), tf.int32))
    padded = tf.pad(image, [[pad, pad], [pad, pad], [0, 0]])
    return tf.ensure_shape(padded[top : top + size[0], left : left + size[1]], size)


def eval_crop(image: tf.Tensor, size: tuple[int, int], share: float, mode: str = "exact") -> tf.Tensor:
    """Resizes (bicubic) until the centre crop of `size` is `share` of the image, then takes it, as timm and MAE.

    For square sizes: short side to floor(size / share), long side int(long * that / short), centre crop.
    """
    high, wide = tf.cast(tf.shape(image)[0], tf.float64), tf.cast(tf.shape(image)[1], tf.float64)
    target = [math.floor(s / share) for s in size]
    by_height = target[0] / high >= target[1] / wide
    new_h = tf.where(by_height, target[0], tf.cast(target[1] * high / wide, tf.int32))
    new_w = tf.where(by_height, tf.cast(target[0] * wide / high, tf.int32), target[1])
    full = tf.stack([new_h, new_w])
    start = tf.cast(tf.round((full - tf.constant(size)) / 2), tf.int32)
    if mode == "fast":
        resized = tf.image.resize(image, full, "bilinear")
        return tf.ensure_shape(crop(resized, tf.concat([start, size], 0)), [*size, image.shape[-1]])
    return resample(image, full, start, size)


def normalise(image: tf.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> tf.Tensor:
    """Grey levels 0..255 -> float32, (x / 255 - mean) / std per channel."""
    # Constants as large as the image: broadcasting over three channels takes ten times as long.
    scale = tf.constant(np.broadcast_to(1 / (255 * np.array(std, np.float32)), image.shape))
    shift = tf.constant(np.broadcast_to(np.array(mean, np.float32) / np.array(std, np.float32), image.shape))
    return tf.cast(image, tf.float32) * scale - shift


def erase(image: tf.Tensor, draws: tf.Tensor, seed: tf.Tensor, probability: float) -> tf.Tensor:
    """timm's RandomErasing in pixel mode: N(0, 1) noise in one box of the normalised image.

    Args:
      image: float32 [H, W, C].
      draws: float32 [23], uniform: whether, ten tries of (area, log aspect), top and left.
      seed: int64 [2], of the noise.
      probability: how often.
    """
    high, wide = image.shape[0], image.shape[1]
    area = high * wide * (0.02 + (1 / 3 - 0.02) * draws[1:11])
    aspect = tf.exp(math.log(0.3) * (1 - 2 * draws[11:21]))
    heights, widths = tf.round(tf.sqrt(area * aspect)), tf.round(tf.sqrt(area / aspect))
    fits = (widths < wide) & (heights < high)
    first = tf.argmax(fits)
    h, w = heights[first], widths[first]
    top = tf.minimum(tf.floor(draws[21] * (high - h + 1)), high - h)
    left = tf.minimum(tf.floor(draws[22] * (wide - w + 1)), wide - w)
    y, x = tf.range(high, dtype=tf.float32)[:, None], tf.range(wide, dtype=tf.float32)[None]
    box = (y >= top) & (y < top + h) & (x >= left) & (x < left + w)

    def erased():
        return tf.where(box[..., None], tf.random.stateless_normal(image.shape, seed, alg="philox"), image)

    return tf.cond((draws[0] < probability) & tf.reduce_any(fits), erased, lambda: image)
