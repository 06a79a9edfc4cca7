"""Transfer to iNaturalist 2018 (8,142 classes, 437,513 images; tfds i_naturalist2018, train / validation): top-1.

MAE-Lite's recipe (recipes 6; finetuning_transfer_exp.py).
Top-1 of ViT-Tiny, NV-recall (from memory of MAE-Lite's table, arXiv:2205.14443; a hint, no threshold):
DeiT 63.6, MoCo-v3 54.5, MAE 60.6, D-MAE 63.6.
Rate and decay are the class default, epochs CIFAR-100's; not published: search it with --grid=blr,layer_decay.

lvit train --config=configs/transfer/inat18.py --workdir=runs/inat18 --config.init.encoder=runs/mae
"""

from lvit_jax.configs import transfers


def get_config():
    return transfers.transfer("i_naturalist2018", val_split="validation")
