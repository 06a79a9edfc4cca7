"""Fine-tuning in miniature on 100 labels of the bundled digits, under half a minute on two cores.

lvit train --config=configs/demo/finetune_few.py --workdir=runs/demo_few --config.init.encoder=runs/demo_mae
"""

from lvit_jax.configs import common


def get_config():
    config = common.digits(common.finetune())
    config.data.limit = 100
    config.data.randaugment = None
    config.objective.mixup = 0.0
    config.optim.blr = 8e-3
    config.optim.warmup_epochs = 20.0
    config.optim.layer_decay = 0.75
    config.train.batch_size = 50
    config.train.epochs = 150.0
    config.eval.every_epochs = 150.0
    config.init.dropped += ("encoder/block_4/.*",)  # the block that D² adds to the micro student
    return config
