"""Transfer to CIFAR-100 (100 classes, 50,000 images; tfds cifar100, train / test): top-1.

Rate (0.1 at batch 512), epochs and warm-up are those of MAE-Lite's scripts/transfer.sh, for all six of its models.
Top-1 of ViT-Tiny, NV-recall (from memory of MAE-Lite's table, arXiv:2205.14443; a hint, no threshold):
DeiT 85.8, MoCo-v3 83.9, MAE 78.9, D-MAE 85.0.

lvit train --config=configs/transfer/cifar100.py --workdir=runs/cifar100 --config.init.encoder=runs/mae
"""

from lvit_jax.configs import transfers


def get_config():
    config = transfers.transfer("cifar100")
    config.optim.update({"blr": 0.05, "warmup_epochs": 10.0})  # an absolute rate of 0.1 at batch 512
    return config
