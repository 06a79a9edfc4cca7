"""MAE, Hiera-Tiny of width 46 (D²-MAE's, not the official 96), mask ratio 0.4, 400 epochs on ImageNet (recipes 4.4).

After fine-tuning for 300 epochs: 78.5 top-1 (MAE-Lite HIERA.md).

lvit train --config=configs/pretrain/hiera_tiny.py --workdir=runs/hiera
"""

from lvit_jax.configs import common


def get_config():
    config = common.base()
    config.model = common.hiera("hiera_tiny46", q_pool=2)
    config.objective = common.mae(decoder="tiny")
    config.objective.mask_ratio = 0.4  # MAE-Lite, hiera_mae_exp.py; Hiera itself has 0.6
    return config
