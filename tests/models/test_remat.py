"""Recomputed blocks: every encoder and both decoders have it, and the loss stays what it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lvit_jax.models.hiera import hiera
from lvit_jax.models.swin import swin
from lvit_jax.models.vit import vit
from lvit_jax.objectives.mae import make_mae
from lvit_jax.objectives.simmim import make_simmim
from lvit_jax.types import TrainState

VIT = {"width": 32, "depth": 2, "heads": 2, "patch_size": 4, "dtype": "float32"}
HIERA = {"first_width": 16, "depths": (1, 1, 1, 1), "mask_unit": 2, "q_pool": 1, "dtype": "float32"}
SWIN = {"patch_size": 2, "window": 2, "width": 16, "depths": (2, 2), "heads": (2, 2), "dtype": "float32"}
DECODER = {"width": 16, "depth": 2, "heads": 2}


def mae(make):
    return lambda remat: make_mae(make(remat), decoder=DECODER)


# name -> objective with or without remat, and how many blocks it has with those of its decoder
CASES = {
    "vit": (mae(lambda remat: vit("vit_micro", remat=remat, **VIT)), 4),
    "hiera": (mae(lambda remat: hiera("hiera_micro", remat=remat, **HIERA)), 6),
    "swin": (lambda remat: make_simmim(swin("swin_micro", remat=remat, **SWIN), mask_unit=4), 4),
}


def traced(objective):
    """The jaxpr of loss and gradients on two images, and the loss."""
    batch = {"image": jax.random.normal(jax.random.key(1), (2, 32, 32, 3))}
    shapes = jax.eval_shape(objective.init, jax.random.key(0), batch).params
    params = jax.tree.map(lambda x: np.random.default_rng(0).standard_normal(x.shape, np.float32) / 8, shapes)
    state = TrainState(jnp.int32(0), params, (), {}, {})

    def loss(p):
        return objective.loss(p, state, batch, jax.random.key(2))[0]

    return str(jax.make_jaxpr(jax.value_and_grad(loss))(params)), float(jax.jit(loss)(params))


@pytest.mark.parametrize("name", CASES)
def test_each_block_is_recomputed_in_encoder_and_decoder(name):
    make, blocks = CASES[name]
    (plain, loss), (again, same) = (traced(make(remat)) for remat in (False, True))
    assert plain.count("remat2[") == 0
    assert again.count("remat2[") == blocks  # once each, in the backward pass
    np.testing.assert_allclose(loss, same, rtol=1e-6)
