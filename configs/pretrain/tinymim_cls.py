"""TinyMIM's ablation of the CLS target: ViT-B, 100 epochs: 80.6 top-1 (TinyMIM paper, recipes 11.2).

With reconstruction (82.1): tinymim_cls_reconstruct.py.

lvit train --config=configs/pretrain/tinymim_cls.py --workdir=runs/ab --config.init.teacher=weights/mae_large
"""

from lvit_jax.configs.pretrain import tinymim_relations


def get_config():
    config = tinymim_relations.get_config()
    config.objective.update({"target": "cls", "views": ("output",), "teacher_layer": 24})
    config.model.last_heads = None  # CLS tokens are not compared head by head
    config.optim.frozen = ()
    return config
