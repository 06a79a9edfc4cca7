"""TinyMIM in miniature on the bundled digits; without a teacher it trains its demo teacher in WORKDIR/teacher first.

lvit train --config=configs/demo/tinymim.py --workdir=runs/demo_tinymim
"""

from lvit_jax.configs import common
from lvit_jax.configs.demo import mae


def get_config():
    config = common.digits(common.tinymim())
    config.data.update(mae.CROPS)
    config.model.update({"heads": 2, "last_heads": 4})  # the teacher's block has 4
    config.objective.teacher_layer = 3  # of 4
    config.optim.update({"blr": 1e-2, "frozen": common.qkv_only(4)})
    config.init.demo_teacher = "configs/demo/teacher.py"
    config.train.update({"epochs": 30.0, "batch_size": 64})
    config.log.every_steps = 100
    return config
