"""TinyMIM, ViT-Tiny (6 heads): the last block of TinyMIM-S, 300 epochs. The last link of the chain L -> B -> S -> T.

After fine-tuning (configs/finetune/tinymim_tiny.py): 75.8 top-1 (TinyMIM paper, recipes 11.2).

The student's last block has the 16 heads of its teacher's. The released code has 12 there, the heads of a plain
ViT-Base: `--config.model.last_heads=12` with MAE-Base as teacher.

lvit train --config=configs/pretrain/tinymim_tiny.py --workdir=runs/tinymim_t --config.init.teacher=runs/tinymim_s
"""

from lvit_jax.configs import common


def get_config():
    config = common.tinymim()
    config.model.update({"name": "vit_tiny", "heads": 6})
    config.objective.teacher_layer = 12
    return config
