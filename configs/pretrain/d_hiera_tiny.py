"""MAE on Hiera-Tiny (width 46) plus the last attention logits of a Hiera-Base teacher, not decoupled (recipes 4.4).

After fine-tuning for 300 epochs: 78.9 top-1 (MAE-Lite HIERA.md).

lvit import_torch --file=mae_hiera_base_224.pth --out=weights/mae_hiera_base
lvit train --config=configs/pretrain/d_hiera_tiny.py --workdir=runs/d_hiera --config.init.teacher=weights/mae_hiera_base
"""

from lvit_jax.configs import common
from lvit_jax.configs.pretrain import hiera_tiny


def get_config():
    config = hiera_tiny.get_config()
    config.objective = common.distill(decoder="tiny", pairs=((12, 24),))
    config.objective.mask_ratio = 0.4
    return config
