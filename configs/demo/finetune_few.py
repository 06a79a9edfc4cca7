"""Fine-tuning in miniature on 100 labels of the bundled digits, about fifteen seconds on two cores.

lvit train --config=configs/demo/finetune_few.py --workdir=runs/demo_few --config.init.encoder=runs/demo_mae
"""

from lvit_jax.configs.demo import finetune


def get_config():
    config = finetune.get_config()
    config.data.limit = 100
    config.optim.warmup_epochs = 12.0
    config.optim.layer_decay = 0.75
    config.train.update({"epochs": 125.0, "batch_size": 50})
    config.eval.every_epochs = 125.0
    config.log.every_steps = 25
    return config
