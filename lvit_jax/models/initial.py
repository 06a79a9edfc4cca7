"""What runs start from where nothing is loaded and a module's own `init` is not it: the references' initial weights."""

import re
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from lvit_jax.models.swin import Swin
from lvit_jax.models.vit import ViT
from lvit_jax.models.vit_rpe import RpeViT
from lvit_jax.tree import flatten, unflatten

STD = 0.02  # truncated at ±2 absolute in the references, a hundred deviations away: a plain normal


def from_scratch(encoder: nn.Module, rng: jax.Array, params: Mapping) -> dict:
    """The encoder's parameters with the Linears redrawn; pre-training, and so a module's own `init`, draws Xavier.

    Plain ViTs and Swins: `redrawn`. The RPE ViT draws the patch embedding too, with a bias of zero, and divides the
    last Linears of both branches of block ℓ, counted from 1, by √(2ℓ) (recipes 1.2). Others keep their own weights.
    """
    if isinstance(encoder, ViT | Swin):
        return redrawn(rng, params)
    if not isinstance(encoder, RpeViT):
        return params
    leaves = flatten(redrawn(rng, params, r".*/kernel"))
    scaled = {name: _scale(name) * leaf for name, leaf in leaves.items()}
    return unflatten(scaled | {"patch_embed/bias": 0 * leaves["patch_embed/bias"]})


def redrawn(rng: jax.Array, params: Mapping, pattern: str = r"(block|merge)_.*/kernel") -> dict:
    """The parameters with those that match `pattern`, the Linears of blocks, from N(0, 0.02) (timm, models_vit.py)."""
    leaves = flatten(params)
    drawn = [name for name in leaves if re.fullmatch(pattern, name)]
    made = {
        name: STD * jax.random.normal(key, leaves[name].shape)
        for name, key in zip(drawn, jax.random.split(rng, len(drawn)), strict=True)
    }
    return unflatten(leaves | made)


def moco_start(rng: jax.Array, params: Mapping) -> dict:
    """MoCo-v3's own start (vits.py): Xavier for q, k, v apart, CLS token N(0, 1e-6), no bias in the patch embedding."""
    leaves = flatten(params)
    joint = [name for name in leaves if name.endswith("attn/qkv/kernel")]
    rngs = jax.random.split(rng, len(joint) + 1)
    for name, key in zip(joint, rngs[1:], strict=True):
        limit = (6 / (leaves[name].shape[0] + leaves[name].shape[1] // 3)) ** 0.5
        leaves[name] = jax.random.uniform(key, leaves[name].shape, minval=-limit, maxval=limit)
    leaves["cls_token"] = 1e-6 * jax.random.normal(rngs[0], leaves["cls_token"].shape)
    leaves["patch_embed/bias"] = jnp.zeros_like(leaves["patch_embed/bias"])
    return unflatten(leaves)


def _scale(name: str) -> float:
    """1/√(2ℓ) for the Linear that ends a branch of block ℓ, else 1."""
    last = re.fullmatch(r"block_(\d+)/(attn/proj|mlp/fc2)/kernel", name)
    return (2 * (int(last[1]) + 1)) ** -0.5 if last else 1.0
