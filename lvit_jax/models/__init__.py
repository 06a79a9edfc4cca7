"""The menu of models: names, sizes and abilities. Imports no jax, so that a misspelt name costs no second."""

from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of encoders: 'module:function' behind the config's `model` section, and what they can do."""

    make: str
    can: frozenset[str]  # of ABILITIES


# What a method may ask of an encoder beside features of whole images.
ABILITIES = {
    "keep": "encode some patches without the others",
    "mask": "put a mask token in the place of patches",
    "cls": "return a CLS token",
    "inner": "be decoded from an inner block",
    "stages": "hand on what its stages make",
}
KINDS = {
    "vit": Kind("lvit_jax.models.vit:vit", frozenset({"keep", "mask", "cls", "inner"})),
    "vit_rpe": Kind("lvit_jax.models.vit_rpe:vit_rpe", frozenset({"cls"})),
    "hiera": Kind("lvit_jax.models.hiera:hiera", frozenset({"keep"})),
    "swin": Kind("lvit_jax.models.swin:swin", frozenset({"mask", "stages"})),
    "regnet": Kind("lvit_jax.models.regnet:regnet", frozenset()),
}

# name -> (kind, size). Heads follow MAE-Lite (models_vit.py): tiny and small take 12 heads so that their attention has
# as many heads as the MAE-Base teacher. DeiT's counts (3 and 6) come with `heads=3`, `heads=6`.
ENCODERS = {
    "vit_micro": ("vit", {"width": 64, "depth": 4, "heads": 4}),  # ours, for the demo on small images
    "vit_tiny": ("vit", {"width": 192, "depth": 12, "heads": 12}),
    "vit_small": ("vit", {"width": 384, "depth": 12, "heads": 12}),
    "vit_base": ("vit", {"width": 768, "depth": 12, "heads": 12}),
    "vit_large": ("vit", {"width": 1024, "depth": 24, "heads": 16}),
    "vit_huge": ("vit", {"width": 1280, "depth": 32, "heads": 16}),
    # Hiera (recipes 1.4): width and heads of the first stage, which double with every stage.
    "hiera_micro": ("hiera", {"first_width": 16, "depths": (1, 1, 2, 1), "first_heads": 1}),  # ours, for the demo
    "hiera_tiny46": ("hiera", {"first_width": 46, "depths": (1, 2, 7, 2), "first_heads": 1}),  # D²-MAE's "Hiera-Tiny"
    "hiera_tiny": ("hiera", {"first_width": 96, "depths": (1, 2, 7, 2), "first_heads": 1}),  # the official one
    "hiera_small": ("hiera", {"first_width": 96, "depths": (1, 2, 11, 2), "first_heads": 1}),
    "hiera_base": ("hiera", {"first_width": 96, "depths": (2, 3, 16, 3), "first_heads": 1}),
    "hiera_base_plus": ("hiera", {"first_width": 112, "depths": (2, 3, 16, 3), "first_heads": 2}),
    "hiera_large": ("hiera", {"first_width": 144, "depths": (2, 6, 36, 4), "first_heads": 2}),
    # With relative positions: MAE-Lite's for long fine-tuning (models_vit_rpe.py), same sizes.
    "vit_micro_rpe": ("vit_rpe", {"width": 64, "depth": 4, "heads": 4}),
    "vit_tiny_rpe": ("vit_rpe", {"width": 192, "depth": 12, "heads": 12}),
    "vit_small_rpe": ("vit_rpe", {"width": 384, "depth": 12, "heads": 12}),
    "vit_base_rpe": ("vit_rpe", {"width": 768, "depth": 12, "heads": 12}),
    # Frozen teachers of classifiers: timm's RegNetY-200MF and -16GF.
    "regnety_002": ("regnet", {"widths": (24, 56, 152, 368), "depths": (1, 1, 4, 7), "group_width": 8}),
    "regnety_160": ("regnet", {"widths": (224, 448, 1232, 3024), "depths": (2, 4, 11, 1), "group_width": 112}),
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
