"""MAE in miniature: a ViT of width 64 on the bundled 8x8 digits, about a minute on two cores.

lvit train --config=configs/demo/mae.py --workdir=runs/demo_mae
"""

from lvit_jax.configs import common

# Crops teach more than shifts by a pixel. "fast" because the exact resize would take as long as the step.
CROPS = {"pad": 0, "crop_scale": (0.6, 1.0), "crop_ratio": (0.8, 1.25), "interpolation": "bicubic", "resample": "fast"}
# 4 visible patches of 16 say too little about a digit; the 4 pixels of a patch have no texture to normalise.
MASKING = {"mask_ratio": 0.5, "norm_pix": False}


def get_config():
    config = common.digits(common.base())
    config.data.update(CROPS)
    config.objective = common.mae(decoder="micro")
    config.objective.update(MASKING)
    config.optim.blr = 1e-2
    config.train.update({"epochs": 80.0, "batch_size": 64})
    config.log.every_steps = 100
    return config
