"""What `lvit analyze` and `lvit embed` measure on this job's devices, saved for test_analyze.py: run as a program.

usage: analysis_devices.py VIT WIDE OUT BATCH
"""

import sys

import jax
import numpy as np
from etils import epath

from lvit_jax.build.analysis import analyse, choose_images, load_models
from lvit_jax.build.backbone import load_backbone
from lvit_jax.build.embed import choose, embed
from lvit_jax.build.images import open_chosen
from lvit_jax.build.maps import draw_maps


def measure(vit, wide, out, batch):
    """CKA of mini-batches of 32, heads and maps of 100 images, and the features of 360, in batches of `batch`."""
    models = load_models([vit, wide])
    first = next(iter(models))
    source = choose_images(open_chosen(models[first]), 100, 32)
    _, arrays = analyse(models, source, 32)
    arrays["maps"] = draw_maps(models[first], source, 3, [(0, 0), (1, 3)], 2).weights
    model = load_backbone(vit)
    embed(model, open_chosen(model), choose(model, 1, "cls"), batch, epath.Path(f"{out}/features.npz"))
    np.savez(f"{out}/analysis.npz", devices=len(jax.devices()), **{k.replace("/", "."): v for k, v in arrays.items()})


if __name__ == "__main__":
    with jax.default_matmul_precision("highest"):
        measure(*sys.argv[1:4], int(sys.argv[4]))
