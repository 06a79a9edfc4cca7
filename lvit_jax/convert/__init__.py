"""PyTorch weights in and out. This table imports nothing: a wrong --to is refused without jax or torch."""

FORMATS = {
    "timm": "a folder for timm.create_model('local-dir:…') and transformers' AutoModelForImageClassification",
    "mae": "one file in the layout of the reference code: facebookresearch/mae, MAE-Lite, Hiera's, Swin's",
    "hf": "a folder for transformers' classes of the same name",
}
