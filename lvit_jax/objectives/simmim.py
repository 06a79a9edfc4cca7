"""SimMIM (arXiv:2111.09886; recipes 3.2): masked patches become a mask token, a light head predicts their pixels."""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lvit_jax.errors import InputError
from lvit_jax.models.features import Features
from lvit_jax.models.layers import Linear, unpatchify
from lvit_jax.objectives.classify import redrawn
from lvit_jax.objectives.losses import pixel_targets
from lvit_jax.types import Aux, Batch, Objective, TrainState, Tree, Variables


class Masked(NamedTuple):
    """A mask of whole units: the same squares as patches, for the encoder, and as pixels, for the loss."""

    patches: jax.Array  # float32 [B,N], 1 = masked
    pixels: jax.Array  # float32 [B,H,W,1]


class Reconstructed(NamedTuple):
    """One pass over masked images."""

    prediction: jax.Array  # float32 [B,N,P], P the pixels that one token of the encoder's output stands for
    features: Features
    stride: int  # side of those pixels


class SimMIM(nn.Module):
    """An encoder of all patches, and a Linear from each token to the pixels under it.

    The Linear is the 1x1 convolution and pixel shuffle of the official code, its outputs in our order of pixels.
    """

    encoder: nn.Module

    @nn.compact
    def __call__(self, images: jax.Array, mask: jax.Array, train: bool = False) -> Reconstructed:
        """images [B,H,W,C], mask float [B,N] of patches -> Reconstructed."""
        features = self.encoder(images, mask=mask, train=train)
        stride, dtype = images.shape[1] // features.grid[0], jnp.dtype(self.encoder.dtype)
        pixels = Linear(stride**2 * images.shape[-1], dtype, name="decoder")(features.patches)
        return Reconstructed(pixels.astype(jnp.float32), features, stride)


def make_simmim(
    encoder: nn.Module, *, mask_ratio: float = 0.6, mask_unit: int = 32, norm_pix: bool = False
) -> Objective:
    """SimMIM pre-training: params {encoder, decoder}.

    Args:
      encoder: any encoder that takes `mask`; it gets a final norm.
      mask_ratio: share of the units masked, rounded up.
      mask_unit: side of a unit in pixels, a multiple of the patch size.
      norm_pix: targets normalised per predicted patch, as MAE's; SimMIM predicts plain pixels.

    Raises:
      InputError: a ratio outside (0, 1), a unit that is no multiple of the patch; with the first images: a side that
        is no multiple of the unit, a ratio that leaves no unit.
    """
    if not 0 < mask_ratio < 1:
        raise InputError(f"mask_ratio={mask_ratio} is outside (0, 1)")
    p = encoder.patch_size
    if mask_unit % p or mask_unit < p:
        near = max(1, round(mask_unit / p)) * p
        raise InputError(f"mask_unit={mask_unit} is no multiple of patch size {p}; nearest: {near}")
    model = SimMIM(encoder.clone(final_norm=True))

    def init(rng: jax.Array, batch: Batch) -> Variables:
        images = batch["image"][:1]
        params = model.init(rng, images, draw_mask(rng, images, mask_ratio, mask_unit, p).patches)["params"]
        return Variables({**params, "encoder": redrawn(rng, params["encoder"])})  # N(0, 0.02), as the official code

    def loss(params: Tree, state: TrainState, batch: Batch, rng: jax.Array):
        mask_rng, dropout_rng = jax.random.split(rng)
        masked = draw_mask(mask_rng, batch["image"], mask_ratio, mask_unit, p)
        out = model.apply({"params": params}, batch["image"], masked.patches, True, rngs={"dropout": dropout_rng})
        value = reconstruction_loss(out, batch["image"], masked.pixels, norm_pix)
        return value, Aux({"reconstruction": value}, state.extra)

    def predict(params: Tree, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        images = batch["image"]
        masked = draw_mask(jax.random.key(0), images, mask_ratio, mask_unit, p)  # fixed, so that curves compare
        out = model.apply({"params": params}, images, masked.patches)
        targets, removed = pixel_targets(images, out.stride, norm_pix), masked.pixels
        predicted = unpatchify(out.prediction * targets.std + targets.mean, out.stride, out.features.grid)
        counted = removed * batch["mask"][:, None, None, None] if "mask" in batch else removed
        return {
            "image": images,
            "masked": images * (1 - removed),
            "reconstruction": images * (1 - removed) + predicted * removed,
            "loss": reconstruction_loss(out, images, counted, norm_pix),
        }

    return Objective(init, loss, predict)


def draw_mask(rng: jax.Array, images: jax.Array, ratio: float, unit: int, patch_size: int) -> Masked:
    """Masks ceil(ratio·U) of the U units of each image [B,H,W,C].

    Raises:
      InputError: a side of the images that is no multiple of the unit, or no unit left to see.
    """
    for side in images.shape[1:3]:
        if side % unit:
            near = max(1, round(side / unit)) * unit
            raise InputError(f"an image side of {side} is no multiple of mask_unit={unit}; nearest: {near}")
    rows, columns = images.shape[1] // unit, images.shape[2] // unit
    units = rows * columns
    masked = math.ceil(ratio * units)
    if masked == units:
        most = f"at most mask_ratio={(units - 1) / units:.3g}" if units > 1 else f"a mask_unit below {unit}"
        raise InputError(f"mask_ratio={ratio} masks all {units} units of {unit} pixels; nearest: {most}")
    rank = jax.random.uniform(rng, (len(images), units)).argsort(axis=1).argsort(axis=1)
    mask = (rank < masked).astype(jnp.float32).reshape(-1, rows, columns)
    return Masked(_enlarge(mask, unit // patch_size).reshape(len(images), -1), _enlarge(mask, unit)[..., None])


def _enlarge(mask: jax.Array, times: int) -> jax.Array:
    """[B,h,w] -> [B,h·times,w·times]."""
    return mask.repeat(times, axis=1).repeat(times, axis=2)


def reconstruction_loss(out: Reconstructed, images: jax.Array, mask: jax.Array, norm_pix: bool) -> jax.Array:
    """Mean absolute error over the masked pixels (mask [B,H,W,1]) and channels of images [B,H,W,C]: float32 scalar."""
    errors = jnp.abs(out.prediction - pixel_targets(images, out.stride, norm_pix).target)
    errors = unpatchify(errors, out.stride, out.features.grid)
    return (errors * mask).sum() / (mask.sum() + 1e-5) / images.shape[-1]
