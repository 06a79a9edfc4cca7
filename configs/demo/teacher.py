"""The demo's teacher: MAE on the bundled digits with a ViT half as wide again as the student.

lvit train --config=configs/demo/teacher.py --workdir=runs/demo_teacher
"""

from lvit_jax.configs.demo import mae


def get_config():
    config = mae.get_config()
    config.model.width = 96
    config.optim.blr = 8e-3
    config.train.epochs = 40.0
    return config
