"""D² on Swin in miniature on the bundled digits; without a teacher it trains its demo teacher in WORKDIR/teacher first.

lvit train --config=configs/demo/simmim_d2.py --workdir=runs/demo_simmim_d2
"""

from lvit_jax.configs import swins
from lvit_jax.configs.demo import simmim_swin


def get_config():
    config = simmim_swin.get_config()
    masking = {"mask_ratio": config.objective.mask_ratio, "mask_unit": config.objective.mask_unit}
    config.objective = swins.simmim_d2(decode_stage=1, teacher_layer=4)
    config.objective.update(masking)
    config.init.demo_teacher = "configs/demo/simmim_swin.py"
    config.train.epochs = 20.0
    return config
