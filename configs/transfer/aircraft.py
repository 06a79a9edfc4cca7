"""Transfer to FGVC-Aircraft (100 variants, 6,667 images; fgvc_aircraft, trainval / test).

How to prepare it: lvit_jax/data/builders/fgvc_aircraft.py, which cuts the banner off. MAE-Lite's recipe (recipes 6;
finetuning_transfer_exp.py), top-1 in its code; the data's authors report mean per class.
Top-1 of ViT-Tiny, NV-recall (from memory of MAE-Lite's table, arXiv:2205.14443; a hint, no threshold):
DeiT 73.5, MoCo-v3 73.7, MAE 64.6, D-MAE 79.2.
Rate and decay are the class default, epochs CIFAR-100's; not published: search it with --grid=blr,layer_decay.

lvit train --config=configs/transfer/aircraft.py --workdir=runs/aircraft --config.init.encoder=runs/mae
"""

from lvit_jax.configs import transfers


def get_config():
    return transfers.transfer("fgvc_aircraft", train_split="trainval")
