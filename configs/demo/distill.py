"""D-MAE in miniature on the bundled digits; without a teacher it trains its demo teacher in WORKDIR/teacher first.

lvit train --config=configs/demo/distill.py --workdir=runs/demo_distill
"""

from lvit_jax.configs import common


def get_config():
    config = common.digits(common.base())
    config.objective = common.distill(decoder="micro", pairs=((4, 6),))
    config.init.demo_teacher = "configs/demo/teacher.py"
    config.optim.blr = 4e-3
    config.train.epochs = 100.0
    return config
