"""TinyMIM's ablation of masked input with reconstruction: ViT-B, 100 epochs: 84.0 top-1 (TinyMIM paper, recipes 11.2).

The student sees a quarter of the patches and also reconstructs the others as a MAE; the weight of that loss, 1, and the
decoder, MAE's for ViT-B, are ours: the paper's are not known.

lvit train --config=configs/pretrain/tinymim_reconstruct.py --workdir=runs/ab --config.init.teacher=weights/mae_large
"""

from lvit_jax.configs.pretrain import tinymim_relations


def get_config():
    config = tinymim_relations.get_config()
    config.objective.mask_ratio = 0.75
    with config.objective.unlocked():
        config.objective.update({"decoder": "base", "norm_pix": True})
    config.optim.frozen = ()  # the decoder reads what the whole last block and the final norm make
    return config
