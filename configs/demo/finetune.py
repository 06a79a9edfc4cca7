"""Fine-tuning in miniature on the bundled digits, under a minute on two cores; from scratch where `init` is empty.

lvit train --config=configs/demo/finetune.py --workdir=runs/demo_ft --config.init.encoder=runs/demo_mae
"""

from lvit_jax.configs import common


def get_config():
    config = common.digits(common.finetune())
    config.data.randaugment = None
    config.objective.mixup = 0.0
    config.optim.blr = 8e-3
    config.optim.layer_decay = 1.0
    config.train.batch_size = 64
    config.train.epochs = 50.0
    config.eval.every_epochs = 25.0
    config.init.dropped += ("encoder/block_4/.*",)  # the block that D² adds to the micro student
    return config
