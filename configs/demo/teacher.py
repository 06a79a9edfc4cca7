"""The demo's teacher: MAE on the bundled digits with a ViT twice as wide and half as deep again as the student.

lvit train --config=configs/demo/teacher.py --workdir=runs/demo_teacher
"""

from lvit_jax.configs import common


def get_config():
    config = common.digits(common.base())
    config.model.update({"width": 128, "depth": 6})
    config.objective = common.mae(decoder="micro")
    config.optim.blr = 4e-3
    config.train.epochs = 100.0
    return config
