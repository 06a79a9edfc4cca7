"""TinyMIM's ablations of feature targets: ViT-B, 100 epochs, teacher MAE-Large (TinyMIM paper, recipes 11.2).

As it stands: the FFN's output before the residual, 84.2 top-1. The other rows, with what their loss does not use:

  FFN after the residual        81.8  --config.objective.views="('block',)"
  attention before the residual 84.1  --config.objective.views="('attn',)"
                                      --config.optim.frozen="('encoder/block_11/(norm2|mlp)/.*','encoder/norm/.*')"
  attention after the residual  81.3  --config.objective.views="('attn_residual',)", frozen as for attention
  Q, K and V                    84.3  --config.objective.views="('q','k','v')"
                                      --config.optim.frozen="('encoder/block_11/(attn/proj|norm2|mlp)/.*','encoder/norm/.*')"
  output                        83.7  --config.objective.views="('output',)" --config.objective.teacher_layer=24
                                      --config.optim.frozen="()"

At 300 epochs, --config.train.epochs=300 (recipes 11.2, which says neither which feature, nor whose students):

  B 83.8
  S 80.8  --config.model.name=vit_small --config.model.heads=6
  T 73.4  --config.model.name=vit_tiny --config.model.heads=6

That "output" is the one after the final norm of the last block is our reading: the paper has it beside "FFN after".

lvit train --config=configs/pretrain/tinymim_features.py --workdir=runs/ab --config.init.teacher=weights/mae_large
"""

from lvit_jax.configs.pretrain import tinymim_relations


def get_config():
    config = tinymim_relations.get_config()
    config.objective.update({"target": "features", "views": ("mlp",)})
    config.model.last_heads = None  # features are not compared head by head
    config.optim.frozen = ("encoder/norm/.*",)
    return config
