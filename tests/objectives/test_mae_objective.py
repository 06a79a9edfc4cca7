"""MAE: loss and gradients against PyTorch; what predict returns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from common import DECODER, assert_grads_close, images, small, start, value_and_grad
from torch_reference import encode, gradients, mask_of, reconstruction, tensors

from lvit_jax.errors import InputError
from lvit_jax.objectives.losses import masked_mse, pixel_targets
from lvit_jax.objectives.mae import make_mae


@pytest.mark.parametrize("norm_pix", [True, False])
def test_loss_and_gradients_equal_pytorch(norm_pix):
    batch, rng = {"image": images()}, jax.random.key(7)
    objective = make_mae(small(), decoder=DECODER, norm_pix=norm_pix)
    params, state = start(objective, batch)
    (loss, aux), grads = value_and_grad(objective, params, state, batch, rng)

    keep, restore, mask = mask_of(jax.random.uniform(jax.random.split(rng)[0], (3, 24)), 0.75)
    weights, pixels = tensors(params), torch.tensor(np.asarray(batch["image"]))
    latent = encode(weights["encoder"], pixels, keep, heads=4).tokens
    expected = reconstruction(weights["decoder"], latent, pixels, restore, mask, heads=2, patch=4, norm_pix=norm_pix)
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-4)
    np.testing.assert_allclose(aux.metrics["reconstruction"], expected.item(), rtol=1e-4)
    assert_grads_close(grads, gradients(expected, weights))


def test_targets_use_the_unbiased_variance():
    targets = pixel_targets(images(batch=2), 4, norm_pix=True)
    np.testing.assert_allclose(np.var(targets.target, axis=-1, ddof=1), 1, atol=1e-4)
    assert abs(np.var(targets.target, axis=-1).mean() - 1) > 0.01
    back = targets.target * targets.std + targets.mean
    np.testing.assert_allclose(back, pixel_targets(images(batch=2), 4, norm_pix=False).target, atol=1e-5)


def test_only_removed_patches_count():
    prediction, target, mask = jnp.ones((1, 3, 2)), jnp.zeros((1, 3, 2)), jnp.array([[1.0, 0, 1]])
    np.testing.assert_allclose(masked_mse(prediction.at[0, 1].set(100.0), target, mask), 1)


@pytest.fixture(scope="module")
def predicted():
    batch = {"image": images()}
    objective = make_mae(small(), decoder=DECODER)
    params, state = start(objective, batch)
    predict = jax.jit(objective.predict)
    return batch, predict(params, state, batch), lambda b: predict(params, state, b)


def test_predict_keeps_visible_patches_and_zeroes_removed_ones(predicted):
    batch, out, _ = predicted
    removed = np.asarray((out["masked"] == 0).all(-1))
    assert 0.74 < removed.mean() < 0.76
    for name in ("masked", "reconstruction"):
        np.testing.assert_array_equal(np.asarray(out[name])[~removed], np.asarray(batch["image"])[~removed])
    assert np.abs(np.asarray(out["reconstruction"] - batch["image"])[removed]).mean() > 0.1


def test_predict_puts_patch_statistics_back(predicted):
    batch, out, predict = predicted
    shifted = predict({"image": batch["image"] * 2 + 5})
    removed = np.asarray((out["masked"] == 0).all(-1))
    assert abs(np.asarray(shifted["reconstruction"])[removed].mean() - 5) < 1
    assert abs(np.asarray(out["reconstruction"])[removed].mean()) < 1


def test_padding_does_not_count_in_the_predicted_loss(predicted):
    batch, _, predict = predicted
    padded = jnp.concatenate([batch["image"][:2], 1e3 * images(batch=1, seed=3)])
    counted = predict({"image": padded, "mask": jnp.array([1.0, 1, 0])})["loss"]
    other = predict({"image": batch["image"], "mask": jnp.array([1.0, 1, 0])})["loss"]
    np.testing.assert_allclose(counted, other, rtol=1e-5)


def test_the_mask_follows_the_rng_and_nothing_else():
    batch = {"image": images()}
    objective = make_mae(small(), decoder=DECODER)
    params, state = start(objective, batch)
    loss = jax.jit(lambda rng: objective.loss(params, state, batch, rng)[0])
    assert loss(jax.random.key(1)) == loss(jax.random.key(1))
    assert loss(jax.random.key(1)) != loss(jax.random.key(2))


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"decoder": "tinny"}, "did you mean 'tiny'"),
        ({"decoder": {"width": 16}}, "width, depth and heads"),
        ({"decoder": "tiny", "mask_ratio": 1.0}, "mask_ratio=1.0"),
    ],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(InputError, match=message):
        make_mae(small(), **kwargs)
