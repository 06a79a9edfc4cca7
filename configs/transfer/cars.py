"""Transfer to Stanford Cars (196 classes, 8,144 images; tfds cars196, train / test): top-1.

MAE-Lite's recipe (recipes 6; finetuning_transfer_exp.py).
Top-1 of ViT-Tiny, NV-recall (from memory of MAE-Lite's table, arXiv:2205.14443; a hint, no threshold):
DeiT 85.6, MoCo-v3 83.9, MAE 78.8, D-MAE 87.5.
Rate and decay are the class default, epochs CIFAR-100's; not published: search it with --grid=blr,layer_decay.

lvit train --config=configs/transfer/cars.py --workdir=runs/cars --config.init.encoder=runs/mae
"""

from lvit_jax.configs import transfers


def get_config():
    return transfers.transfer("cars196")
