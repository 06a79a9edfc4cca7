"""Transfer to CIFAR-10 (10 classes, 50,000 images; tfds cifar10, train / test): top-1.

MAE-Lite's recipe (recipes 6; finetuning_transfer_exp.py); images of 32 pixels are enlarged to 224. No figure is known.
Rate and decay are the class default, epochs CIFAR-100's; not published: search it with --grid=blr,layer_decay.

lvit train --config=configs/transfer/cifar10.py --workdir=runs/cifar10 --config.init.encoder=runs/mae
"""

from lvit_jax.configs import transfers


def get_config():
    return transfers.transfer("cifar10")
