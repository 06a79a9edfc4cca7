"""PyTorch weights in and out. This table imports nothing: a wrong --to is refused without jax or torch."""

FORMATS = {
    "timm": "a folder for timm.create_model('local-dir:…') and transformers' AutoModelForImageClassification",
    "mae": "one file in the layout of facebookresearch/mae and MAE-Lite",
    "hf": "a folder for transformers' ViTMAEForPreTraining, or ViTForImageClassification where CLS is pooled",
}
