"""MAE in miniature: a ViT of width 64 on the bundled 8x8 digits, about a minute on two cores.

lvit train --config=configs/demo/mae.py --workdir=runs/demo_mae
"""

from lvit_jax.configs import common


def get_config():
    config = common.digits(common.base())
    config.objective = common.mae(decoder="micro")
    config.optim.blr = 4e-3
    config.train.epochs = 100.0
    return config
