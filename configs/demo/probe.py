"""Linear probes in miniature: every layer of a frozen encoder, on the bundled digits, under a minute on two cores.

Without an encoder it trains the MAE of the demo in WORKDIR/encoder first. The rate is high for LARS: a run of so few
steps would leave the heads near their start at MAE's.

lvit train --config=configs/demo/probe.py --workdir=runs/demo_probe --config.init.encoder=runs/demo_mae
"""

from lvit_jax.configs import common, probes
from lvit_jax.configs.demo import mae


def get_config():
    config = common.digits(probes.probe())
    config.data.update(mae.CROPS)
    config.init.demo_teacher = "configs/demo/mae.py"
    config.optim.blr = 20.0
    config.train.update({"epochs": 30.0, "batch_size": 128})
    config.eval.every_epochs = 15.0
    return config
