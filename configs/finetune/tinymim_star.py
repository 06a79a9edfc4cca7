r"""Fine-tuning of TinyMIM*-T: 12 heads, a distillation token, and a layer of 1280 before the classifiers.

Top-1: 79.6 (TinyMIM, arXiv:2301.01296; recipes 11.2). Its code was never published: the token and the layer are those
of its segmentation backbone (recipes 1.3); that the main head reads CLS, and the teacher, schedule and rates, are our
starting points after DeiT (recipes 5.4, 12.4), to be swept. The heads of pre-training are 6 (recipes 1.3).

lvit import_torch --file=regnety_160.safetensors --out=weights/regnety_160
lvit train --config=configs/finetune/tinymim_star.py --workdir=runs/ft --config.init.encoder=runs/tinymim_t \
  --config.init.teacher=weights/regnety_160
"""

from lvit_jax.configs.finetune import imagenet_distill


def get_config():
    config = imagenet_distill.get_config()
    config.model.drop_path = 0.0
    config.objective.update({"pool": "cls", "token": "own", "expand": 1280})
    config.init.heads_from = 6
    config.optim.layer_decay = 0.75
    config.optim.no_decay += ("encoder/dist_token",)
    config.train.update({"epochs": 1000.0, "batch_size": 2048})
    return config
