"""SimMIM on Swin in miniature: two stages of width 32 and 64 on the 8x8 pixels of a digit, on two cores.

lvit train --config=configs/demo/simmim_swin.py --workdir=runs/demo_swin
"""

from lvit_jax.configs import swins
from lvit_jax.configs.demo import simmim

SIZES = {"image_size": 8, "patch_size": 1, "channels": 1, "dtype": "float32"}


def get_config():
    config = swins.swin(simmim.get_config(), "swin_micro")
    config.model.update(SIZES)
    config.train.epochs = 20.0
    return config
