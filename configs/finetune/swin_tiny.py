"""ImageNet fine-tuning of Swin C=48 (MAE-Lite, finetuning_swin_exp.py): the improved recipe, 300 epochs.

Top-1: 77.4 from SimMIM, 77.8 from D² (MAE-Lite SIMMIM.md). Departure: final norm and head learn at the full rate, as
recipes 5.2 has it; the released code counts two layers too few and gives them the rate times 0.85² (recipes 5.1).

lvit train --config=configs/finetune/swin_tiny.py --workdir=runs/ft --config.init.encoder=runs/simmim_d2
"""

from lvit_jax.configs import labelled, swins


def get_config():
    config = swins.swin(labelled.finetune(), "swin_c48")
    config.objective.pool = "norm_mean"
    config.optim.no_decay = ("encoder/.*/bias_table",)
    config.init.fresh = ("head/.*",)
    return config
