"""The teacher of demo/finetune_distill.py: a classifier of the bundled digits, half as wide again as the student.

lvit train --config=configs/demo/teacher_classifier.py --workdir=runs/demo_teacher_classifier
"""

from lvit_jax.configs.demo import finetune


def get_config():
    config = finetune.get_config()
    config.model.width = 96
    config.optim.blr = 8e-3
    config.train.epochs = 15.0
    return config
