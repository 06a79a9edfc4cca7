"""Fine-tuning in miniature on the bundled digits, about half a minute on two cores; from scratch where `init` is empty.

lvit train --config=configs/demo/finetune.py --workdir=runs/demo_ft --config.init.encoder=runs/demo_mae
"""

from lvit_jax.configs import common


def get_config():
    config = common.digits(common.finetune())
    config.data.randaugment = None
    config.objective.mixup = 0.0
    config.optim.blr = 2e-3
    config.train.epochs = 50.0
    config.eval.every_epochs = 10.0
    return config
