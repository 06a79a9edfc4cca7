"""SimMIM (arXiv:2111.09886; recipes 3.2): masked patches become a mask token, a light head predicts their pixels."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lvit_jax.errors import InputError, unknown
from lvit_jax.models.features import Features
from lvit_jax.models.heads import pool
from lvit_jax.models.initial import redrawn
from lvit_jax.models.layers import LayerNorm, Linear, unpatchify
from lvit_jax.models.swin import SwinBlock, effective_window
from lvit_jax.objectives.losses import pixel_targets
from lvit_jax.types import Aux, Batch, Objective, TrainState, Tree, Variables

# "linear" is the official head; "block" that of MAE-Lite's students (recipes 4.5).
HEADS = {"linear": None, "block": {"width": 96, "heads": 3, "window": 7}}


class Masked(NamedTuple):
    """A mask of whole units: the same squares as patches, for the encoder, and as pixels, for the loss."""

    patches: jax.Array  # float32 [B,N], 1 = masked
    pixels: jax.Array  # float32 [B,H,W,1]


class Reconstructed(NamedTuple):
    """One pass over masked images."""

    prediction: jax.Array  # float32 [B,N,P], P the pixels that one of the tokens decoded stands for
    grid: tuple[int, int]  # of those tokens
    stride: int  # side of those pixels
    features: Features


class BlockHead(nn.Module):
    """Linear to `width`, one unshifted Swin block without norm after it, Linear to pixels (recipes 4.5)."""

    width: int
    heads: int
    window: int
    pixels: int
    dtype: jnp.dtype
    norm_eps: float
    norm: bool  # a LayerNorm first, where the tokens are not the encoder's normed ones

    @nn.compact
    def __call__(self, x: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """[B,N,D] on a grid -> [B,N,pixels]."""
        x = LayerNorm(self.dtype, self.norm_eps, name="norm")(x) if self.norm else x
        x = Linear(self.width, self.dtype, name="embed")(x)
        try:
            effective_window(self.window, 0, grid)
        except InputError as error:
            sizes = f"objective.head={{'width': {self.width}, 'heads': {self.heads}, 'window': ...}} in a config file"
            raise InputError(
                f"the block of the head: {error}; set {sizes}, or --config.objective.head=linear"
            ) from None
        block = SwinBlock(self.heads, self.window, 0, 0.0, self.dtype, norm_eps=self.norm_eps, name="block_0")
        return Linear(self.pixels, self.dtype, name="head")(block(x, grid, False).x)


class SimMIM(nn.Module):
    """An encoder of all patches, and a head from each token to the pixels under it.

    A Linear to pixels is the 1x1 convolution and pixel shuffle of the official code, its outputs in our order.
    `decode_stage`: decode what this stage (from 1) of a hierarchical encoder hands on, rather than the last's output.
    """

    encoder: nn.Module
    head: Mapping[str, int] | None = None  # sizes of a BlockHead; None: a Linear
    decode_stage: int | None = None

    @nn.compact
    def __call__(self, images: jax.Array, mask: jax.Array, train: bool = False) -> Reconstructed:
        """images [B,H,W,C], mask float [B,N] of patches -> Reconstructed."""
        features = self.encoder(images, mask=mask, train=train)
        x, grid, stage = features.patches, features.grid, self.decode_stage
        if stage is not None:
            x, span = features.stages[stage - 1], self.encoder.patch_size * 2**stage
            grid = images.shape[1] // span, images.shape[2] // span
        stride, dtype = images.shape[1] // grid[0], jnp.dtype(self.encoder.dtype)
        pixels = stride**2 * images.shape[-1]
        if self.head is None:
            x = Linear(pixels, dtype, name="decoder")(x)
        else:
            rest = {"norm_eps": self.encoder.norm_eps, "norm": stage is not None}
            x = BlockHead(**self.head, pixels=pixels, dtype=dtype, **rest, name="decoder")(x, grid)
        return Reconstructed(x.astype(jnp.float32), grid, stride, features)


def make_simmim(
    encoder: nn.Module,
    *,
    head: str | Mapping[str, int] = "linear",
    mask_ratio: float = 0.6,
    mask_unit: int = 32,
    norm_pix: bool = False,
) -> Objective:
    """SimMIM pre-training: params {encoder, decoder}.

    Args:
      encoder: a ViT or a Swin, which take `mask`; it gets a final norm.
      head: "linear" (one Linear), "block" (a Linear, a Swin block, a Linear), or width, heads, window of its block.
      mask_ratio: share of the units masked, rounded up.
      mask_unit: side of a unit in pixels, a multiple of the patch size.
      norm_pix: targets normalised per predicted patch, as MAE's; SimMIM predicts plain pixels.

    Raises:
      InputError: an unknown head, a ratio outside (0, 1), a unit that is no multiple of the patch; with the first
        images: a side that is no multiple of the unit, a ratio that leaves no unit.
    """
    masking = make_masking(encoder, mask_ratio, mask_unit)
    model = SimMIM(encoder.clone(final_norm=True), head_sizes(head))

    def init(rng: jax.Array, batch: Batch) -> Variables:
        return Variables(init_params(model, masking, rng, batch))

    def loss(params: Tree, state: TrainState, batch: Batch, rng: jax.Array):
        out, masked = forward(model, masking, params, batch["image"], rng)
        value = reconstruction_loss(out, batch["image"], masked.pixels, norm_pix)
        return value, Aux({"reconstruction": value}, state.extra)

    return Objective(init, loss, make_predict(model, masking, norm_pix))


Masking = Callable[[jax.Array, jax.Array], Masked]  # (rng, images) -> Masked


def make_masking(encoder: nn.Module, ratio: float, unit: int) -> Masking:
    """`draw_mask` for an encoder's patches."""
    p = encoder.patch_size
    if not 0 < ratio < 1:
        raise InputError(f"mask_ratio={ratio} is outside (0, 1)")
    if unit % p or unit < p:
        raise InputError(f"mask_unit={unit} is no multiple of patch size {p}; nearest: {max(1, round(unit / p)) * p}")
    return partial(draw_mask, ratio=ratio, unit=unit, patch_size=p)


def head_sizes(head: str | Mapping[str, int]) -> dict[str, int] | None:
    """A name of HEADS, or width, heads and window of the block -> what SimMIM takes."""
    if isinstance(head, str):
        if head not in HEADS:
            raise unknown("head of simmim", head, HEADS)
        return HEADS[head]
    if set(head) != {"width", "heads", "window"}:
        raise InputError(f"a head of simmim is a name or width, heads and window, not {sorted(head)}")
    return dict(head)


def init_params(model: SimMIM, masking: Masking, rng: jax.Array, batch: Batch) -> Tree:
    """Fresh {encoder, decoder}; Linears of blocks from N(0, 0.02), as in the official code.

    The Linears before and after the block of a head, and a linear head, start from Xavier-uniform (as the probe of D²
    does), which is ours: the official linear head is a convolution that keeps PyTorch's own start.
    """
    images = batch["image"][:1]
    params = model.init(rng, images, masking(rng, images).patches)["params"]
    keys = jax.random.split(rng, len(params))
    return {part: redrawn(key, params[part]) for part, key in zip(sorted(params), keys, strict=True)}


def forward(
    model: SimMIM, masking: Masking, params: Tree, images: jax.Array, rng: jax.Array
) -> tuple[Reconstructed, Masked]:
    """A training pass under a fresh random mask."""
    mask_rng, dropout_rng = jax.random.split(rng)
    masked = masking(mask_rng, images)
    params = {"params": {part: params[part] for part in ("encoder", "decoder")}}
    return model.apply(params, images, masked.patches, True, rngs={"dropout": dropout_rng}), masked


def make_predict(
    model: SimMIM, masking: Masking, norm_pix: bool
) -> Callable[[Tree, TrainState, Batch], dict[str, jax.Array]]:
    """`predict` as MAE's (`mae.make_predict`): image, masked, reconstruction, loss under a fixed mask, features."""

    def predict(params: Tree, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        images = batch["image"]
        masked = masking(jax.random.key(0), images)
        weights = {"params": {part: params[part] for part in ("encoder", "decoder")}}
        out = model.apply(weights, images, masked.patches)
        targets, removed = pixel_targets(images, out.stride, norm_pix), masked.pixels
        predicted = unpatchify(out.prediction * targets.std + targets.mean, out.stride, out.grid)
        counted = removed * batch["mask"][:, None, None, None] if "mask" in batch else removed
        return {
            "image": images,
            "masked": images * (1 - removed),
            "reconstruction": images * (1 - removed) + predicted * removed,
            "loss": reconstruction_loss(out, images, counted, norm_pix),
            "features": pool(model.encoder.apply({"params": params["encoder"]}, images), "mean"),
        }

    return predict


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
        most = 1000 * (units - 1) // units / 1000  # rounded down, so that it works
        most = f"at most mask_ratio={most}" if units > 1 else f"a mask_unit below {unit}"
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
    errors = unpatchify(errors, out.stride, out.grid)
    return (errors * mask).sum() / (mask.sum() + 1e-5) / images.shape[-1]
