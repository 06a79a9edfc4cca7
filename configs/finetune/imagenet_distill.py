r"""ImageNet fine-tuning with DeiT's hard distillation from RegNetY-16GF, 300 epochs (finetuning_distill_exp.py).

Top-1 of ViT-Tiny: 76.9 from MAE and 75.9 from scratch; 78.4 and 77.8 with 1000 epochs (first version of the MAE-Lite
repository; recipes 5.4). The teacher is timm's regnety_160; any classifier that was fine-tuned or imported here will
do that sees pixels of the same statistics and numbers the classes alike.

lvit import_torch --file=regnety_160.safetensors --out=weights/regnety_160
lvit train --config=configs/finetune/imagenet_distill.py --workdir=runs/ft_distill --config.init.encoder=runs/mae \
  --config.init.teacher=weights/regnety_160
"""

from lvit_jax.configs import labelled
from lvit_jax.configs.finetune import imagenet_mae_style


def get_config():
    config = labelled.classify_distill(imagenet_mae_style.get_config())
    config.train.epochs = 300.0
    return config
