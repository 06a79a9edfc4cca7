"""Workdirs of encoders with random weights, made in a moment."""

import jax
import jax.numpy as jnp
import numpy as np

from lvit_jax.bin.flags import load_config
from lvit_jax.build.parts import encoder, image_shape
from lvit_jax.training.checkpoint import save_params
from lvit_jax.training.record import write_record

SIZES = {
    "vit": ("demo/mae", {"width": 32, "depth": 2, "heads": 2}),
    "wide": ("demo/moco", {"width": 48, "depth": 3, "heads": 3}),
    "swin": ("demo/simmim_swin", {}),
    "regnet": ("demo/mae", {}),
}

REGNET = {"name": "regnety_002", "image_size": 32, "channels": 1, "dtype": "float32"}  # a teacher, and no more


def make_workdir(path, name, seed=0):
    """A run's folder that holds an encoder of `SIZES` with random weights, and the digits as its data."""
    demo, sizes = SIZES[name]
    config = load_config(demo).to_dict()
    config["model"] = REGNET if name == "regnet" else config["model"] | sizes
    module, rng = encoder(config["model"]), np.random.default_rng(seed)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *image_shape(config["model"]))))["params"]
    params = jax.tree.map(lambda leaf: np.asarray(0.3 * rng.standard_normal(leaf.shape), np.float32), shapes)
    save_params(path, {"encoder": params})
    data = {"classes": [str(digit) for digit in range(10)], "mean": [0.3 + 0.1 * seed], "std": [0.4]}
    write_record(path, {"kind": "run", "config": config, "data": data})
    return str(path)
