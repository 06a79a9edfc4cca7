"""Masking, patch order, initial values, and the path from latent to prediction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lvit_jax.models import DECODERS
from lvit_jax.models.layers import PatchEmbed, patchify, unpatchify
from lvit_jax.models.mim import masked_autoencoder, random_masking
from lvit_jax.models.vit import vit
from lvit_jax.tree import flatten

IMAGES = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))


def test_masking_keeps_the_least_noise_in_its_order():
    noise = jnp.array([[0.9, 0.1, 0.5, 0.3, 0.7, 0.2, 0.8, 0.4]])
    keep, restore, mask = random_masking(noise, 0.6)
    np.testing.assert_array_equal(keep, [[1, 5, 3]])
    np.testing.assert_array_equal(mask, [[1, 0, 1, 0, 1, 0, 1, 1]])
    np.testing.assert_array_equal(np.asarray(noise)[0, np.argsort(restore[0])], np.sort(noise[0]))
    assert keep.dtype == restore.dtype == jnp.int32 and mask.dtype == jnp.float32


@pytest.mark.parametrize("patches, ratio, kept", [(196, 0.75, 49), (16, 0.75, 4), (64, 0.9, 6), (3, 0.9, 1)])
def test_masking_keeps_as_many_as_mae(patches, ratio, kept):
    keep, _, mask = random_masking(jax.random.uniform(jax.random.key(0), (4, patches)), ratio)
    assert keep.shape == (4, kept)
    np.testing.assert_array_equal(mask.sum(1), patches - kept)


def test_patches_run_row_by_row_and_end_in_channels():
    patches = patchify(IMAGES, 4)
    assert patches.shape == (2, 6, 48)
    np.testing.assert_array_equal(patches[1, 4], np.asarray(IMAGES)[1, 4:8, 4:8].ravel())
    np.testing.assert_array_equal(unpatchify(patches, 4, (2, 3)), IMAGES)


def test_patch_embedding_is_a_strided_convolution():
    module = PatchEmbed(width=5, patch_size=4, channels=3, dtype=jnp.float32)
    variables = module.init(jax.random.key(0), IMAGES)
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    conv = jax.lax.conv_general_dilated(IMAGES, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(module.apply(variables, IMAGES), conv.reshape(2, 6, 5) + bias, atol=1e-5)
    keep = jnp.array([[2, 5], [0, 1]])
    expected = jnp.take_along_axis(module.apply(variables, IMAGES), keep[:, :, None], axis=1)
    np.testing.assert_allclose(module.apply(variables, IMAGES, keep), expected, atol=1e-6)


@pytest.fixture(scope="module")
def fresh():
    encoder = vit("vit_micro", width=64, depth=3, patch_size=4, dtype="float32")
    model = masked_autoencoder(encoder, "micro", 0.5)
    noise = jax.random.uniform(jax.random.key(1), (2, 6))
    return model, noise, jax.jit(model.init)(jax.random.key(0), IMAGES, noise)


def test_initial_values_are_maes(fresh):
    leaves = flatten(fresh[2]["params"])
    for name, leaf in leaves.items():
        if name.endswith("/kernel"):
            rows = leaf.size // leaf.shape[-1]  # the patch kernel counts flattened
            bound = (6 / (rows + leaf.shape[-1])) ** 0.5
            assert 0.95 * bound < np.abs(leaf).max() <= bound, name
        elif name.endswith("/scale"):
            np.testing.assert_array_equal(leaf, 1, err_msg=name)
        elif name.endswith("token"):
            assert 0.012 < np.std(leaf) < 0.028, name
        elif name == "encoder/patch_embed/bias":  # PyTorch's convolution default
            assert 0.9 * 48**-0.5 < np.abs(leaf).max() <= 48**-0.5
        else:
            np.testing.assert_array_equal(leaf, 0, err_msg=name)


def test_predictions_cover_every_patch_and_know_only_the_kept(fresh):
    model, noise, variables = fresh
    apply = jax.jit(model.apply)
    out = apply(variables, IMAGES, noise)
    assert out.prediction.shape == (2, 6, 48) and out.prediction.dtype == jnp.float32
    assert out.latent.shape == (2, 4, 64) and out.keep.shape == (2, 3)
    hidden = unpatchify(out.mask[:, :, None] * jnp.ones(48), 4, (2, 3))
    same = apply(variables, IMAGES + 9 * hidden, noise)
    np.testing.assert_array_equal(same.prediction, out.prediction)
    other = apply(variables, IMAGES + 9 * (1 - hidden), noise)
    assert np.abs(other.prediction - out.prediction).max() > 1e-2


def test_decode_from_norms_an_earlier_block(fresh):
    model, noise, variables = fresh
    early = masked_autoencoder(model.encoder, "micro", 0.5, decode_from=2)
    out, last = (jax.jit(m.apply)(variables, IMAGES, noise) for m in (early, model))
    x = out.features.blocks[1].x
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(out.latent, expected, atol=1e-4)
    assert np.abs(out.latent - last.latent).max() > 1e-2


@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_builds(name):
    model = masked_autoencoder(vit("vit_tiny"), name, 0.75)
    x, noise = jnp.zeros((1, 224, 224, 3)), jnp.zeros((1, 196))
    out, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), x, noise))
    assert out.prediction.shape == (1, 196, 768)
    assert variables["params"]["decoder"]["embed"]["kernel"].shape == (192, DECODERS[name]["width"])
