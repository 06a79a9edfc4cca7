"""Linear probes of every layer on ImageNet, CLS and mean at once: MAE's protocol, 90 epochs, batch 16384 (recipes 7).

Last layer of MAE's ViT-B: 67.8 top-1 (MAE). The model must be the encoder's; `lvit eval_probe --linear` sees to it.

lvit train --config=configs/probe/linear.py --workdir=runs/probe --config.init.encoder=runs/mae
"""

from lvit_jax.configs import probes


def get_config():
    return probes.probe()
