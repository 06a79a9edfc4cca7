"""D-MAE in miniature on the bundled digits; without a teacher it trains its demo teacher in WORKDIR/teacher first.

lvit train --config=configs/demo/distill.py --workdir=runs/demo_distill
"""

from lvit_jax.configs import common
from lvit_jax.configs.demo import mae


def get_config():
    config = mae.get_config()
    config.objective = common.distill(decoder="micro", pairs=((4, 4),))
    config.objective.update(mae.MASKING)
    config.init.demo_teacher = "configs/demo/teacher.py"
    config.train.epochs = 40.0
    return config
