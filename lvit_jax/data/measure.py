"""What `lvit bench data` measures of this pipeline: its speed, and how far its crops are from PIL's."""

import io
import time
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from lvit_jax.data import image as ops
from lvit_jax.data.pipeline import train_batches
from lvit_jax.data.recipes import as_size, draw, mae
from lvit_jax.data.source import Source

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def crops(source: Source, image_size: int, resample: str, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Endless training batches of RandomResizedCrop (bicubic) and flip, normalised: what torchvision is measured at."""
    statistics = {"mean": ops.STATISTICS["imagenet"][0], "std": ops.STATISTICS["imagenet"][1]}
    recipe = mae(image_size=image_size, interpolation="bicubic", resample=resample, crop_scale=SCALE, **statistics)
    return train_batches(source, recipe, batch_size=batch_size, seed=0, max_broken=1.0)(0)


def grey_difference(source: Source, image_size: int, resample: str, count: int = 100) -> float:
    """Mean absolute difference to PIL, in grey levels, over random crops of readable images resized by both."""
    from PIL import Image

    size = as_size(image_size)

    @tf.function
    def ours(row, number):
        data, _ = source.load(row)
        draws = draw(tf.stack([tf.zeros([], tf.int64), number]), 0, 23)
        window = ops.crop_window(tf.shape(ops.decode(data, 3)), draws, SCALE, RATIO)
        pixels = ops.resize(ops.decode_crop(data, 3, draws, SCALE, RATIO, resample), size, "bicubic", resample)
        return data, window, tf.cast(pixels, tf.float32)

    differences = []
    for number in range(count):
        row = tf.constant(source.rows[number % source.size])
        try:
            data, window, pixels = ours(row, tf.constant(number, tf.int64))
        except tf.errors.OpError:  # a broken image
            continue
        top, left, high, wide = window.numpy().tolist()
        crop = Image.open(io.BytesIO(data.numpy())).convert("RGB").crop((left, top, left + wide, top + high))
        theirs = np.asarray(crop.resize(size[::-1], Image.Resampling.BICUBIC), np.float32)
        differences.append(np.abs(pixels.numpy() - theirs).mean())
    return float(np.mean(differences))


def rate(batches: Iterator, seconds: float, prefetched: int) -> float:
    """Images per second of an iterator of batches ({"image": ...} or a pair), after what it had ready before."""
    for _ in range(prefetched + 1):
        next(batches)
    start, images = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        batch = next(batches)
        images += len(batch["image"] if isinstance(batch, dict) else batch[0])
    return images / (time.perf_counter() - start)
