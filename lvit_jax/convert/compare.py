"""What a model says of a fixed batch, so that written files can be held against the model they came from."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lvit_jax.convert.arch import Arch
from lvit_jax.convert.files import MASK_RATIO
from lvit_jax.models.heads import classifier
from lvit_jax.models.mim import masked_autoencoder
from lvit_jax.models.vit import ViT


def fixed_batch(arch: Arch, examples: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 [B,H,W,C] as after normalisation, and noise [B,N] for the mask; always the same."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((examples, *arch.image_size, arch.channels), np.float32)
    return images, rng.random((examples, arch.grid[0] * arch.grid[1]), np.float32)


def outputs(params: Mapping[str, Any], arch: Arch, images: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """What the JAX model computes, in float32 with full matrix precision.

    Returns:
      logits [B,C] of a classifier, predictions [B,N,P] of a masked autoencoder, tokens [B,1+N,D] of a bare encoder
      after its final norm.
    """
    encoder = encoder_of(arch)
    with jax.default_matmul_precision("highest"):
        if arch.pool:
            made = classifier(encoder, arch.classes, arch.pool).apply({"params": params}, images)
        elif arch.decoder:
            model = masked_autoencoder(encoder, _decoder(arch), MASK_RATIO)
            made = model.apply({"params": params}, images, noise).prediction
        else:
            made = encoder.apply({"params": params["encoder"]}, images).tokens
    return np.asarray(made)


def encoder_of(arch: Arch) -> ViT:
    """The encoder of these sizes, computing in float32."""
    return ViT(
        width=arch.width,
        depth=arch.depth,
        heads=arch.heads,
        patch_size=arch.patch_size,
        channels=arch.channels,
        positions=arch.positions,
        dtype="float32",
    )


def _decoder(arch: Arch) -> dict[str, Any]:
    return {key: arch.decoder[key] for key in ("width", "depth", "heads")}
