"""What a demo has learnt, beside what says nothing: one image for all."""

import numpy as np

from lvit_jax.bin.flags import load_config
from lvit_jax.build.data import load_data
from lvit_jax.data.pipeline import eval_batches
from lvit_jax.training.report import read_metrics


def last(run, name):
    """The last value of a figure in a run's metrics."""
    return [record[name] for record in read_metrics(run) if name in record][-1]


def validation_pixels(config):
    """The validation images of a config, normalised: float32 [N,H,W,C]."""
    data = load_data(load_config(config).to_dict())
    batches = list(eval_batches(data.val, data.transform, batch_size=64)())
    return np.concatenate([batch["image"][batch["mask"] > 0] for batch in batches])


def best_constant(config):
    """(L1, L2) losses of the constant images that are best on these very images: the median and the mean per pixel."""
    pixels = validation_pixels(config)
    return np.abs(pixels - np.median(pixels, axis=0)).mean(), np.square(pixels - pixels.mean(axis=0)).mean()
