"""Masked autoencoding (MAE, arXiv:2111.06377): predict the pixels of the removed patches."""

from collections.abc import Callable, Mapping

import jax

from lvit_jax.models.heads import pool
from lvit_jax.models.hiera import Hiera
from lvit_jax.models.mim import MaskedAutoencoder, MimOut, masked_autoencoder, patchify, unpatchify
from lvit_jax.models.vit import ViT
from lvit_jax.objectives.losses import masked_mse, pixel_targets
from lvit_jax.types import Aux, Batch, Objective, TrainState, Tree, Variables


def make_mae(
    encoder: ViT | Hiera, *, decoder: str | Mapping[str, int], mask_ratio: float = 0.75, norm_pix: bool = True
) -> Objective:
    """MAE pre-training: params {encoder, decoder}.

    Args:
      encoder: any ViT or Hiera; it gets a final norm.
      decoder: a name of `models.DECODERS`, or its width, depth and heads.
      mask_ratio: share of the patches, or of a Hiera's mask units, removed.
      norm_pix: targets normalised per patch.

    Raises:
      InputError: see `masked_autoencoder`.
    """
    model = masked_autoencoder(encoder, decoder, mask_ratio)

    def init(rng: jax.Array, batch: Batch) -> Variables:
        return Variables(params=init_params(model, rng, batch))

    def loss(params: Tree, state: TrainState, batch: Batch, rng: jax.Array):
        out = forward(model, params, batch["image"], rng)
        value = reconstruction_loss(model, out, batch["image"], norm_pix)
        return value, Aux({"reconstruction": value}, state.extra)

    return Objective(init, loss, make_predict(model, norm_pix))


def init_params(model: MaskedAutoencoder, rng: jax.Array, batch: Batch) -> Tree:
    """Fresh {encoder, decoder} for the image size of the batch."""
    images = batch["image"][:1]
    return model.init(rng, images, model.noise(rng, images))["params"]


def forward(model: MaskedAutoencoder, params: Tree, images: jax.Array, rng: jax.Array) -> MimOut:
    """A training pass under a fresh random mask."""
    noise_rng, dropout_rng = jax.random.split(rng)
    noise = model.noise(noise_rng, images)
    return model.apply({"params": params}, images, noise, True, rngs={"dropout": dropout_rng})


def reconstruction_loss(model: MaskedAutoencoder, out: MimOut, images: jax.Array, norm_pix: bool) -> jax.Array:
    """MAE's loss of a pass over images [B,H,W,C]: float32 scalar."""
    targets = pixel_targets(images, model.encoder.patch_size, norm_pix)
    return masked_mse(out.prediction, targets.target, out.mask)


def make_predict(model: MaskedAutoencoder, norm_pix: bool) -> Callable[[Tree, TrainState, Batch], dict]:
    """The `predict` of every masked autoencoder.

    It returns "image", "masked" (removed patches 0, the mean grey) and "reconstruction" (removed patches predicted,
    their own mean and deviation put back if `norm_pix`; visible patches as they were): [B,H,W,C], normalised as the
    input; "loss": scalar; and "features" [B,D] of the whole images, the mean of their patches. The mask is drawn from
    a fixed key, so that curves over training compare; examples with batch["mask"] = 0 do not count.
    """

    def predict(params: Tree, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        images, p = batch["image"], model.encoder.patch_size
        out = model.apply({"params": params}, images, model.noise(jax.random.key(0), images))
        targets = pixel_targets(images, p, norm_pix)
        counted = out.mask * batch["mask"][:, None] if "mask" in batch else out.mask
        patches, removed = patchify(images, p), out.mask[:, :, None]
        predicted = out.prediction * targets.std + targets.mean
        return {
            "image": images,
            "masked": unpatchify(patches * (1 - removed), p, out.features.grid),
            "reconstruction": unpatchify(patches * (1 - removed) + predicted * removed, p, out.features.grid),
            "loss": masked_mse(out.prediction, targets.target, counted),
            "features": pool(model.encoder.apply({"params": params["encoder"]}, images), "mean"),
        }

    return predict
