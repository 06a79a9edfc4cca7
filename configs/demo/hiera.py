"""Hiera's MAE in miniature: 16 mask units of 4x4 tokens, on the digits enlarged to 16x16; under 90 s on two cores.

lvit train --config=configs/demo/hiera.py --workdir=runs/demo_hiera
"""

from lvit_jax.configs import common
from lvit_jax.configs.demo import mae


def get_config():
    config = mae.get_config()
    config.model = common.hiera("hiera_micro", q_pool=2)
    config.model.update({"image_size": 16, "channels": 1, "dtype": "float32"})
    config.model.update({"patch_kernel": 3, "patch_stride": 1, "patch_padding": 1, "mask_unit": 4})
    config.train.epochs = 40.0
    return config
