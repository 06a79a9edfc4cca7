"""ImageNet fine-tuning with MAE's heavier regularisation, 100 epochs (MAE-Lite, finetuning_mae_exp.py).

Top-1 of ViT-Tiny: 76.1 from MAE, 76.5 from D-MAE, 74.5 from scratch, where `init.encoder` stays empty (first version of
the MAE-Lite repository; recipes 5.4, which does not say whether that is the default of 100 epochs or 300, also run).

lvit train --config=configs/finetune/imagenet_mae_style.py --workdir=runs/ft --config.init.encoder=runs/mae
"""

from lvit_jax.configs import labelled


def get_config():
    config = labelled.finetune()
    config.train.epochs = 100.0
    config.data.randaugment = "rand-m9-mstd0.5-inc1"
    config.data.erase = 0.25
    config.objective.mixup = 0.8
    config.objective.cutmix = 1.0
    config.objective.smoothing = 0.1
    config.model.drop_path = 0.1
    return config
