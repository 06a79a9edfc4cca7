"""Transfer to Oxford-IIIT Pets (37 classes, 3,680 images; tfds oxford_iiit_pet, train (= trainval) / test).

MAE-Lite's recipe (recipes 6; finetuning_transfer_exp.py), top-1 in its code; others report mean per class.
Top-1 of ViT-Tiny, NV-recall (from memory of MAE-Lite's table, arXiv:2205.14443; a hint, no threshold):
DeiT 93.1, MoCo-v3 87.8, MAE 76.5, D-MAE 89.1.
Rate and decay are the class default, epochs CIFAR-100's; not published: search it with --grid=blr,layer_decay.

lvit train --config=configs/transfer/pets.py --workdir=runs/pets --config.init.encoder=runs/mae
"""

from lvit_jax.configs import transfers


def get_config():
    return transfers.transfer("oxford_iiit_pet")
