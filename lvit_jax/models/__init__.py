"""The menu of models: names and sizes. Imports nothing, so that a misspelt name costs no second."""

# kind -> the function behind the config's `model` section, for all sizes of that kind.
KINDS = {"vit": "lvit_jax.models.vit:vit", "swin": "lvit_jax.models.swin:swin"}

# name -> (kind, size). Heads follow MAE-Lite (models_vit.py): tiny and small take 12 heads so that their attention has
# as many heads as the MAE-Base teacher. DeiT's counts (3 and 6) come with `heads=3`, `heads=6`.
ENCODERS = {
    "vit_micro": ("vit", {"width": 64, "depth": 4, "heads": 4}),  # ours, for the demo on small images
    "vit_tiny": ("vit", {"width": 192, "depth": 12, "heads": 12}),
    "vit_small": ("vit", {"width": 384, "depth": 12, "heads": 12}),
    "vit_base": ("vit", {"width": 768, "depth": 12, "heads": 12}),
    "vit_large": ("vit", {"width": 1024, "depth": 24, "heads": 16}),
    "vit_huge": ("vit", {"width": 1280, "depth": 32, "heads": 16}),
    # Named by their width C: MAE-Lite calls the first "swin_tiny" and the second, the standard Swin-T, "swin_small".
    "swin_c48": ("swin", {"width": 48, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24), "window": 7}),
    "swin_c96": ("swin", {"width": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24), "window": 7}),
    "swin_micro": ("swin", {"width": 32, "depths": (2, 2), "heads": (2, 4), "window": 4}),  # ours, for the demo
}

# MAE decoders: MAE-Lite's one-block ones for tiny and small, MAE's for base and larger (models_mae.py).
DECODERS = {
    "micro": {"width": 32, "depth": 1, "heads": 2},
    "tiny": {"width": 96, "depth": 1, "heads": 3},
    "small": {"width": 192, "depth": 1, "heads": 6},
    "base": {"width": 512, "depth": 8, "heads": 16},
}
