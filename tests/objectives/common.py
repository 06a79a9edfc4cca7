"""Small models and batches for the tests of objectives."""

import jax
import jax.numpy as jnp
import numpy as np

from lvit_jax.models.vit import vit
from lvit_jax.tree import flatten
from lvit_jax.types import TrainState

DECODER = {"width": 16, "depth": 1, "heads": 2}


def small(**kwargs):
    """A ViT of 3 blocks on 4-pixel patches, in float32."""
    return vit("vit_micro", **{"width": 32, "depth": 3, "heads": 4, "patch_size": 4, "dtype": "float32"} | kwargs)


def images(batch=3, height=16, width=24, channels=3, seed=0):
    """float32 [B,H,W,C]; 24 patches of 4 pixels."""
    return jax.random.normal(jax.random.key(seed), (batch, height, width, channels))


def start(objective, batch):
    """(params, state) of random weights, no zeros or ones among them; nothing is compiled."""
    rng = np.random.default_rng(0)

    def fill(leaf):
        fan_in = leaf.size // leaf.shape[-1] if leaf.ndim > 1 else 4
        return rng.standard_normal(leaf.shape, np.float32) * fan_in**-0.5 + (leaf.ndim == 1) * 0.5

    variables = jax.tree.map(fill, jax.eval_shape(objective.init, jax.random.key(0), batch))
    return variables.params, TrainState(jnp.int32(0), variables.params, (), variables.frozen, variables.extra)


def value_and_grad(objective, params, state, batch, rng):
    """Jitted -> ((loss, Aux), grads)."""
    return jax.jit(jax.value_and_grad(objective.loss, has_aux=True))(params, state, batch, rng)


def assert_grads_close(ours, theirs, tolerance=1e-3):
    """Per tensor: the difference's norm against the gradient's; tensors without gradient must agree on that."""
    ours, theirs = flatten(ours), flatten(theirs)
    assert ours.keys() == theirs.keys()
    # A key's bias has no gradient but rounding (softmax ignores it), so a floor stands beside the relative bound.
    floor = 1e-6 * max(np.linalg.norm(g) for g in theirs.values())
    for name, expected in theirs.items():
        assert np.linalg.norm(ours[name] - expected) <= tolerance * np.linalg.norm(expected) + floor, name
