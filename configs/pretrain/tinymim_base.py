"""TinyMIM, ViT-Base: relations of block 18 of MAE-Large, 300 epochs. The first link of the chain L -> B -> S -> T.

After fine-tuning (configs/finetune/tinymim_base.py): 85.0 top-1 (TinyMIM paper, recipes 11.2; 84.7 by a third party).

lvit import_torch --file=mae_pretrain_vit_large.pth --heads=16 --out=weights/mae_large
lvit train --config=configs/pretrain/tinymim_base.py --workdir=runs/tinymim_b --config.init.teacher=weights/mae_large
"""

from lvit_jax.configs import common


def get_config():
    config = common.tinymim()
    config.model.name = "vit_base"
    return config
