"""TinyMIM, ViT-Small (6 heads): the last block of TinyMIM-B, 300 epochs. The second link of the chain L -> B -> S -> T.

After fine-tuning (configs/finetune/tinymim_small.py): 83.0 top-1 (TinyMIM paper, recipes 11.2).

The student's last block has the 16 heads of its teacher's, whose relations were trained with these. The released code
has 12 there, the heads of a plain ViT-Base: `--config.model.last_heads=12` with MAE-Base as teacher.

The ablation of the sequence (100 epochs, top-1 after fine-tuning, recipes 11.2), each as this config with
--config.train.epochs=100 and its teacher in init.teacher:

  MAE-B            82.3  --config.model.last_heads=12
  MAE-L            82.1  --config.objective.teacher_layer=18
  MAE-L -> B -> S  82.6  as it stands, from a TinyMIM-B of 100 epochs (tinymim_relations.py)

Other targets at this size: tinymim_cls.py, tinymim_features.py.

lvit train --config=configs/pretrain/tinymim_small.py --workdir=runs/tinymim_s --config.init.teacher=runs/tinymim_b
"""

from lvit_jax.configs import common


def get_config():
    config = common.tinymim()
    config.model.update({"name": "vit_small", "heads": 6})
    config.objective.teacher_layer = 12
    return config
