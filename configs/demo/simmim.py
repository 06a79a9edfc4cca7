"""SimMIM in miniature: a ViT of width 64 on the bundled 8x8 digits, about a minute on two cores.

lvit train --config=configs/demo/simmim.py --workdir=runs/demo_simmim
"""

from lvit_jax.configs import common
from lvit_jax.configs.demo import mae


def get_config():
    config = mae.get_config()
    config.objective = common.simmim()
    config.objective.update({"mask_ratio": 0.5, "mask_unit": 2})
    config.optim.update({"blr": 4e-2, "warmup_epochs": 3.0})  # a start from N(0, 0.02) is slow at this width
    config.train.epochs = 40.0
    return config
