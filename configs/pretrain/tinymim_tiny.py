"""TinyMIM, ViT-Tiny (6 heads): the last block of TinyMIM-S, 300 epochs. The last link of the chain L -> B -> S -> T.

After fine-tuning (configs/finetune/tinymim_tiny.py): 75.8 top-1 (TinyMIM paper, recipes 11.2).

The student's last block has the 16 heads of its teacher's. The released code has 12 there, the heads of a plain
ViT-Base: `--config.model.last_heads=12` with MAE-Base as teacher.

The ablation of the sequence (100 epochs, top-1 after fine-tuning, recipes 11.2), each as this config with
--config.train.epochs=100 and its teacher in init.teacher:

  MAE-S (6 heads)  74.1  --config.model.last_heads=6; that MAE: mae_small.py --config.model.heads=6
  MAE-B            74.4  --config.model.last_heads=12
  B -> S -> T      75.0  as it stands, from a TinyMIM-S of 100 epochs

Other targets at this size: tinymim_cls.py, tinymim_features.py.

lvit train --config=configs/pretrain/tinymim_tiny.py --workdir=runs/tinymim_t --config.init.teacher=runs/tinymim_s
"""

from lvit_jax.configs import common


def get_config():
    config = common.tinymim()
    config.model.update({"name": "vit_tiny", "heads": 6})
    config.objective.teacher_layer = 12
    return config
