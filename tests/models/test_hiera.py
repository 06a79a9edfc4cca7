"""Hiera against transformers on copied weights: logits, prediction and loss; what masks hide; sizes; bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hiera_weights import SIZES, channel_last, from_hf, hf_model

from lvit_jax.models.heads import classifier
from lvit_jax.models.hiera import hiera
from lvit_jax.models.hiera_layers import roll, to_grid, unroll
from lvit_jax.models.mim import masked_autoencoder
from lvit_jax.objectives.mae import reconstruction_loss

SMALL = {"first_width": 16, "depths": (1, 1, 2, 1), "dtype": "float32"}
DECODER = {"width": 24, "depth": 1, "heads": 3}
HF_DECODER = {"decoder_hidden_size": 24, "decoder_depth": 1, "decoder_num_heads": 3}
IMAGES = np.random.default_rng(0).standard_normal((2, *SIZES["image_size"], 3)).astype(np.float32)
IMAGES *= np.linspace(0.2, 2, IMAGES.shape[1], dtype=np.float32)[:, None, None]  # patches of unequal deviations
PIXELS = torch.tensor(IMAGES).permute(0, 3, 1, 2)


def close(ours, theirs):
    theirs = theirs.detach().numpy()
    assert np.ptp(theirs) > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def test_tokens_run_by_units_and_levels():
    x = jnp.arange(8 * 16).reshape(1, 8, 16, 1)
    unrolled = unroll(x, 4)
    assert unrolled.shape == (1, 8, 16, 1)
    first = unrolled[0, 5, :, 0].reshape(4, 4)  # finest, coarsest: the unit of rows 4-7, columns 4-7
    np.testing.assert_array_equal(first.max(axis=0), [5 * 16 + 5, 5 * 16 + 7, 7 * 16 + 5, 7 * 16 + 7])
    np.testing.assert_array_equal(roll(unrolled)[0, 5, :, :, 0], x[0, 4:8, 4:8, 0])
    np.testing.assert_array_equal(to_grid(roll(unrolled), (2, 4))[0, :, 0], x.ravel())


def test_logits_equal_transformers():
    theirs = hf_model("HieraForImageClassification", num_labels=11)
    model = classifier(hiera("hiera_micro", **SMALL), 11)
    ours = jax.jit(model.apply)({"params": from_hf(theirs)}, IMAGES)
    close(ours, theirs(PIXELS).logits)


@pytest.fixture(scope="module")
def masked():
    """(transformers' model, ours, our weights, compiled apply, noise) of a MAE that keeps 3 of 6 mask units."""
    theirs = hf_model("HieraForPreTraining", num_query_pool=2, mask_ratio=0.4, **HF_DECODER)
    model = masked_autoencoder(hiera("hiera_micro", q_pool=2, **SMALL), DECODER, 0.4)
    noise = np.random.default_rng(1).random((2, 6), np.float32)
    return theirs, model, {"params": from_hf(theirs)}, jax.jit(model.apply), noise


def test_masked_autoencoder_equals_transformers(masked):
    theirs, model, params, apply, noise = masked
    expected = theirs(PIXELS, noise=torch.tensor(noise))
    out = apply(params, IMAGES, noise)
    assert out.keep.shape == (2, 3) and out.features.grid == (4, 6) and out.features.prefix == 0
    np.testing.assert_array_equal(out.mask, ~expected.bool_masked_pos.numpy())
    close(out.prediction, torch.tensor(channel_last(expected.logits.detach().numpy())))
    loss = reconstruction_loss(model, out, jnp.asarray(IMAGES), norm_pix=True)
    np.testing.assert_allclose(loss, expected.loss.item(), rtol=1e-4)
