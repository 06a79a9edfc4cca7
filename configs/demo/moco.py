"""MoCo-v3 in miniature: two views of the bundled 8x8 digits, about a minute on two cores.

Chance is a loss of 4T·ln(128) = 3.9: two sums of 2T times the logarithm of the number of keys.

lvit train --config=configs/demo/moco.py --workdir=runs/demo_moco
"""

from lvit_jax.configs import common
from lvit_jax.configs.demo import mae


def get_config():
    config = common.digits(common.contrastive())
    config.data.update(mae.CROPS)
    # A digit of 8 pixels does not survive the blur and the colours of photographs.
    config.data.update({"blur_p": (0.5, 0.1), "blur_sigma": (0.1, 0.6), "solarise_p": (0.0, 0.0)})
    config.objective.update({"hidden": 256, "dim": 64})
    config.optim.blr = 4e-3
    config.train.epochs = 25.0
    return config
