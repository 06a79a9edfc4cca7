"""What classification starts from where nothing is loaded: the reference implementations' own initial weights."""

import re
from collections.abc import Mapping

import flax.linen as nn
import jax

from lvit_jax.models.vit import ViT
from lvit_jax.models.vit_rpe import RpeViT
from lvit_jax.tree import flatten, unflatten

STD = 0.02  # truncated at ±2 absolute in the references, a hundred deviations away: a plain normal


def from_scratch(encoder: nn.Module, rng: jax.Array, params: Mapping) -> dict:
    """The encoder's parameters with the Linears redrawn; pre-training, and so a module's own `init`, draws Xavier.

    A plain ViT draws every Linear of its blocks from N(0, 0.02) (timm, MAE-Lite's models_vit.py). The RPE ViT draws
    the patch embedding too, with a bias of zero, and divides the last Linears of both branches of block ℓ, counted
    from 1, by √(2ℓ) (recipes 1.2). Other encoders keep their own weights.
    """
    if not isinstance(encoder, ViT | RpeViT):
        return params
    relative = isinstance(encoder, RpeViT)
    leaves = flatten(params)
    drawn = [name for name in leaves if re.fullmatch(r"block_.*/kernel" if not relative else r".*/kernel", name)]
    made = {
        name: (_scale(name) if relative else 1.0) * STD * jax.random.normal(key, leaves[name].shape)
        for name, key in zip(drawn, jax.random.split(rng, len(drawn)), strict=True)
    }
    if relative:
        made["patch_embed/bias"] = 0 * leaves["patch_embed/bias"]
    return unflatten(leaves | made)


def _scale(name: str) -> float:
    """1/√(2ℓ) for the Linear that ends a branch of block ℓ, else 1."""
    last = re.fullmatch(r"block_(\d+)/(attn/proj|mlp/fc2)/kernel", name)
    return (2 * (int(last[1]) + 1)) ** -0.5 if last else 1.0
