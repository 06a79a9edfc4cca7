"""Fine-tuning in miniature on the bundled digits, under a minute on two cores; from scratch where `init` is empty.

lvit train --config=configs/demo/finetune.py --workdir=runs/demo_ft --config.init.encoder=runs/demo_mae
"""

from lvit_jax.configs import common, labelled
from lvit_jax.configs.demo import mae


def get_config():
    config = common.digits(labelled.finetune())
    config.data.update(mae.CROPS)
    config.data.randaugment = None
    config.objective.mixup = 0.0
    config.optim.blr = 1e-2
    config.train.update({"epochs": 45.0, "batch_size": 64})
    config.eval.every_epochs = 15.0
    return config
