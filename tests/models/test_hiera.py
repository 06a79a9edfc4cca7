"""Hiera against transformers on copied weights: logits, prediction and loss; what masks hide; sizes; bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hiera_weights import SIZES, channel_last, from_hf, hf_model

from lvit_jax.errors import InputError
from lvit_jax.models.heads import classifier
from lvit_jax.models.hiera import hiera
from lvit_jax.models.hiera_layers import roll, to_grid, unroll
from lvit_jax.models.mim import masked_autoencoder
from lvit_jax.objectives.mae import reconstruction_loss
from lvit_jax.tree import flatten

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


def test_masked_pixels_do_not_leak(masked):
    """The 7x7 kernels of the patch embedding overlap: removed pixels must be zero before it."""
    _, _, params, apply, noise = masked
    out = apply(params, IMAGES, noise)
    hidden = to_pixels(out.mask)
    assert 0.4 < hidden.mean() < 0.6
    same = apply(params, IMAGES + 9 * hidden, noise)
    np.testing.assert_array_equal(same.features.tokens, out.features.tokens)
    np.testing.assert_array_equal(same.prediction, out.prediction)
    other = apply(params, IMAGES + 9 * (1 - hidden), noise)
    assert np.abs(other.features.tokens - out.features.tokens).max() > 0.1


def to_pixels(mask):
    """[B,N] on the 4x6 grid of 16-pixel patches -> [B,H,W,1]."""
    return np.asarray(mask).reshape(-1, 4, 6, 1).repeat(16, axis=1).repeat(16, axis=2)


def test_blocks_say_what_they_attended_to(masked):
    _, _, params, apply, noise = masked
    blocks = apply(params, IMAGES, noise).features.blocks
    # Three visible units of 64 tokens; the switch to one window lags by a block behind the second pooling.
    queries = [(3, 64, 1, 16), (3, 16, 2, 16), (3, 4, 4, 16), (1, 12, 4, 16), (1, 12, 8, 16)]
    assert [b.q.shape[1:] for b in blocks] == queries
    assert [b.k.shape[1:3] for b in blocks] == [(3, 64), (3, 64), (3, 16), (1, 12), (1, 12)]
    assert [b.x.shape for b in blocks] == [(2, 192, 16), (2, 48, 32), (2, 12, 64), (2, 12, 64), (2, 12, 128)]


@pytest.mark.parametrize(
    "name, millions, table",
    [
        ("hiera_tiny46", 6.69, 3136 * 46),
        ("hiera_tiny", 27.91, 3136 * 96),
        ("hiera_small", 35.01, 3136 * 96),
        ("hiera_base", 51.52, 3136 * 96),
    ],
)
def test_parameter_counts(name, millions, table):
    """Recipes 1.4: 6.7 M (6.55 M without positions), 27.9 M and 51.5 M, with the head of 1000 classes."""
    model = classifier(hiera(name), 1000)
    leaves = flatten(jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3))))["params"])
    assert sum(leaf.size for leaf in leaves.values()) / 1e6 == pytest.approx(millions, abs=0.006)
    assert leaves["encoder/pos_embed"].size == table


def test_other_image_sizes_where_units_divide_them():
    model = hiera("hiera_tiny46")
    shape = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jnp.zeros((1, 256, 192, 3)))[0])
    assert shape.tokens.shape == (1, 48, 368) and shape.grid == (8, 6)


def test_initial_values_are_hieras():
    model = masked_autoencoder(hiera("hiera_micro", q_pool=2, **SMALL), DECODER, 0.4)
    images, noise = jnp.zeros((1, 32, 64, 3)), jnp.zeros((1, 2))
    for name, leaf in flatten(jax.jit(model.init)(jax.random.key(0), images, noise)["params"]).items():
        if "fusion" in name or name == "encoder/patch_embed/bias":  # PyTorch's convolution default
            fan_in = {"0": 16 * 16, "1": 4 * 32, "s": 49 * 3}[name[-1]]
            assert 0.8 * fan_in**-0.5 < np.abs(leaf).max() <= fan_in**-0.5, name
        elif name.endswith("/kernel"):
            bound = (6 / (leaf.size // leaf.shape[-1] + leaf.shape[-1])) ** 0.5
            assert 0.95 * bound < np.abs(leaf).max() <= bound, name
        elif name.endswith(("pos_embed", "mask_token")):
            assert 0.012 < np.std(leaf) < 0.028, name
        else:
            np.testing.assert_array_equal(leaf, float(name.endswith("/scale")), err_msg=name)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"q_pool": 4}, "q_pool=4: 4 stages and mask units of 8x8 allow 0 to 3"),
        ({"mask_unit": 6}, "mask_unit=6 is no power of two; nearest: 8"),
        ({"mask_unit": 4, "q_pool": 3}, "mask units of 4x4 allow 0 to 2"),
        ({"patch_padding": 4}, "patch_padding=4 .* nearest: 3"),
        ({"first_heads": 3}, "first_width 16 is no multiple of first_heads=3; nearest: 2"),
        ({"dtype": "float64"}, "unknown dtype"),
    ],
)
def test_numbers_that_make_no_hierarchy_are_named(kwargs, message):
    with pytest.raises(InputError, match=message):
        hiera("hiera_micro", **kwargs)


def test_images_and_ratios_that_do_not_fit_are_named():
    encoder = hiera("hiera_micro", q_pool=2)
    with pytest.raises(InputError, match="side of 240 is no multiple of the mask unit of 32; nearest: 256"):
        encoder.init(jax.random.key(0), jnp.zeros((1, 224, 240, 3)))
    arguments = (jax.random.key(0), jnp.zeros((1, 64, 96, 3)), jnp.zeros((1, 6)))
    model = masked_autoencoder(encoder, DECODER, 0.83)
    assert jax.eval_shape(model.init_with_output, *arguments)[0].keep.shape == (1, 1)
    with pytest.raises(InputError, match=r"mask_ratio=0.84 leaves none of 6 .* nearest: 0.83"):
        jax.eval_shape(masked_autoencoder(encoder, DECODER, 0.84).init, *arguments)
    with pytest.raises(InputError, match="reads several stages"):
        masked_autoencoder(encoder, DECODER, 0.4, decode_from=3)
