"""Transfer to Oxford Flowers-102 (102 classes, 2,040 images; tfds oxford_flowers102, train+validation / test).

MAE-Lite's recipe (recipes 6; finetuning_transfer_exp.py), top-1 in its code; others report mean per class.
Top-1 of ViT-Tiny, NV-recall (from memory of MAE-Lite's table, arXiv:2205.14443; a hint, no threshold):
DeiT 96.4, MoCo-v3 94.8, MAE 85.8, D-MAE 95.2.
Rate and decay are the class default, epochs CIFAR-100's; not published: search it with --grid=blr,layer_decay.

lvit train --config=configs/transfer/flowers.py --workdir=runs/flowers --config.init.encoder=runs/mae
"""

from lvit_jax.configs import transfers


def get_config():
    return transfers.transfer("oxford_flowers102", train_split="train+validation")
