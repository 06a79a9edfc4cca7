"""Masked autoencoder (MAE, arXiv:2111.06377; facebookresearch/mae models_mae.py): masking, decoder, and the whole."""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lvit_jax.errors import InputError, unknown
from lvit_jax.models import DECODERS
from lvit_jax.models.features import Features
from lvit_jax.models.hiera import Hiera
from lvit_jax.models.hiera_mim import HieraDecoder
from lvit_jax.models.layers import Block, LayerNorm, Linear, patchify, take, unpatchify
from lvit_jax.models.positions import sincos_2d
from lvit_jax.models.vit import ViT

__all__ = ["Decoder", "MaskedAutoencoder", "MimOut", "masked_autoencoder", "patchify", "random_masking", "unpatchify"]


class MimOut(NamedTuple):
    """One masked pass: what the losses of MAE, D-MAE and D²-MAE read."""

    prediction: jax.Array  # float32 [B,N,P], every patch in (row, column, channel) order
    mask: jax.Array  # float32 [B,N], 1 = removed from the encoder's input
    features: Features  # of CLS and the kept patches
    keep: jax.Array  # int32 [B,K], what the encoder saw: patches, or mask units of a Hiera
    latent: jax.Array  # [B,1+K,D], what the decoder saw


def random_masking(noise: jax.Array, ratio: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Keeps the patches of least noise, as MAE.

    Args:
      noise: float [B,N], one number per patch.
      ratio: share of patches to remove; int(N·(1-ratio)) are kept, at least one.

    Returns:
      keep int32 [B,K] in order of noise, restore int32 [B,N] (the rank of each patch), mask float32 [B,N], 1 = removed.
    """
    kept = max(1, int(noise.shape[1] * (1 - ratio)))
    order = jnp.argsort(noise, axis=1)
    restore = jnp.argsort(order, axis=1)
    return order[:, :kept], restore, (restore >= kept).astype(jnp.float32)


DECODER_POSITIONS = ("sincos", "learned")


class Decoder(nn.Module):
    """MAE's decoder: kept tokens back in their places, mask tokens in the others, a few blocks, pixels."""

    width: int
    depth: int
    heads: int
    patch_size: int
    channels: int
    dtype: str
    positions: str = "sincos"  # "learned": a parameter, as some transformers folders need
    norm_eps: float = 1e-6
    remat: bool = False  # as the encoder's

    @nn.compact
    def __call__(self, latent: jax.Array, restore: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """latent [B,1+K,D], restore int32 [B,N], grid (rows, columns) with N patches -> float32 [B,N,P]."""
        dtype = jnp.dtype(self.dtype)
        x = Linear(self.width, dtype, name="embed")(latent)
        mask_token = self.param("mask_token", nn.initializers.normal(0.02), (1, 1, self.width)).astype(dtype)
        kept = latent.shape[1] - 1
        places = take(x[:, 1:], jnp.minimum(restore, kept - 1))
        patches = jnp.where((restore < kept)[:, :, None], places, mask_token)
        x = jnp.concatenate([x[:, :1], patches], axis=1)
        table = sincos_2d(self.width, grid)
        if self.positions == "learned":
            table = self.param("pos_embed", lambda _: jnp.asarray(table)[None])
        x = (x + table).astype(dtype)
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for i in range(self.depth):
            x = block(self.heads, 0.0, dtype, norm_eps=self.norm_eps, name=f"block_{i}")(x, False).x
        x = LayerNorm(dtype, self.norm_eps, name="norm")(x)[:, 1:]
        return Linear(self.patch_size**2 * self.channels, dtype, name="head")(x).astype(jnp.float32)


class MaskedAutoencoder(nn.Module):
    """Encoder on the visible patches, decoder on all.

    `decode_from`: the decoder reads the encoder's norm of block `decode_from`'s output (counted from 1) rather than
    of the last one's: D²-MAE reconstructs from LN(x₈) while the later blocks serve distillation alone.
    """

    encoder: ViT | Hiera
    decoder: Decoder | HieraDecoder
    mask_ratio: float = 0.75
    decode_from: int | None = None

    def __call__(self, images: jax.Array, noise: jax.Array, train: bool = False) -> MimOut:
        """images [B,H,W,C], noise float [B,N] or [B,U] as `noise` makes it (its order decides the mask) -> MimOut.

        Raises:
          InputError: a mask ratio that leaves nothing to see.
        """
        check_kept(noise.shape[1], self.mask_ratio)
        keep, restore, mask = random_masking(noise, self.mask_ratio)
        features = self.encoder(images, keep, train=train)
        latent = features.tokens
        if self.decode_from is not None:
            latent = self.encoder.norm(features.blocks[self.decode_from - 1].x)
        prediction = self.decoder(latent, restore, features.grid)
        mask = enlarge(mask, self.encoder.mask_grid(images), features.grid)
        return MimOut(prediction, mask, features, keep, latent)

    def noise(self, rng: jax.Array, images: jax.Array) -> jax.Array:
        """Uniform noise float32 for these images: [B,N], one number per patch, or [B,U], one per mask unit."""
        rows, columns = self.encoder.mask_grid(images)
        return jax.random.uniform(rng, (len(images), rows * columns))


def enlarge(mask: jax.Array, grid: tuple[int, int], finer: tuple[int, int]) -> jax.Array:
    """A mask [B,U] on a grid of units as a mask [B,N] on a finer grid of patches."""
    rows, columns = finer[0] // grid[0], finer[1] // grid[1]
    return mask.reshape(-1, *grid).repeat(rows, axis=1).repeat(columns, axis=2).reshape(len(mask), -1)


def check_kept(units: int, ratio: float) -> None:
    """Raises InputError where a mask ratio removes all of so many patches or mask units."""
    if int(units * (1 - ratio)):
        return
    valid = [n / 100 for n in range(1, 100) if int(units * (1 - n / 100))]
    nearest = f"nearest: {valid[-1]}" if valid else "larger images have more"
    raise InputError(f"mask_ratio={ratio} leaves none of {units} patches or mask units; {nearest}")


def masked_autoencoder(
    encoder: ViT | Hiera, decoder: str | Mapping[str, int], mask_ratio: float, decode_from: int | None = None
) -> MaskedAutoencoder:
    """An encoder with a decoder from `models.DECODERS`, or of given width, depth, heads (and positions).

    Raises:
      InputError: an unknown decoder, other keys than those three, a mask ratio outside (0, 1), or a block to decode
        from that the encoder lacks (of a Hiera, whose decoder reads several stages: any).
    """
    if isinstance(decoder, str):
        if decoder not in DECODERS:
            raise unknown("decoder", decoder, DECODERS)
        decoder = DECODERS[decoder]
    if set(decoder) - {"positions"} != {"width", "depth", "heads"}:
        raise InputError(f"a decoder is a name or width, depth and heads (and positions), not {sorted(decoder)}")
    if decoder.get("positions", "sincos") not in DECODER_POSITIONS:
        raise unknown("positions", decoder["positions"], DECODER_POSITIONS)
    if not 0 < mask_ratio < 1:
        raise InputError(f"mask_ratio={mask_ratio} is outside (0, 1)")
    if decode_from is not None and not 1 <= decode_from <= encoder.depth:
        near = min(max(decode_from, 1), encoder.depth)
        raise InputError(f"decode_from={decode_from}: the encoder has blocks 1 to {encoder.depth}; nearest: {near}")
    like = {key: getattr(encoder, key) for key in ("patch_size", "channels", "dtype", "norm_eps", "remat")}
    if isinstance(encoder, Hiera):
        if decode_from is not None:
            raise InputError("a Hiera's decoder reads several stages, not one inner block: use mae or distill, not d2")
        if decoder.get("positions", "learned") != "learned":
            raise InputError(f"positions of a Hiera's decoder are 'learned', not {decoder['positions']!r}")
        size = {key: value for key, value in decoder.items() if key != "positions"}
        decoder = HieraDecoder(**size, **like)
    else:
        decoder = Decoder(**decoder, **like)
    return MaskedAutoencoder(encoder.clone(final_norm=True), decoder, mask_ratio, decode_from)
