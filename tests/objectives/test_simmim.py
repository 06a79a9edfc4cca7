"""SimMIM: loss and gradients against a direct PyTorch computation; the laws of its masks; what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from common import assert_grads_close, images, small, start, value_and_grad
from torch_reference import block, gradients, linear, norm, positions, tensors

from lvit_jax.errors import InputError
from lvit_jax.objectives.simmim import draw_mask, make_simmim

RNG = jax.random.key(5)
BATCH = {"image": images(height=16, width=24)}
UNIT = 8  # 2x3 units of 2x2 patches


def torch_loss(p, pixels, patches):
    """recipes 3.2: all patches encoded, those of `patches` [B,h,w] as the mask token; L1 on their pixels."""
    kernel = p["encoder"]["patch_embed"]["kernel"].permute(3, 2, 0, 1)
    x = F.conv2d(pixels.permute(0, 3, 1, 2), kernel, p["encoder"]["patch_embed"]["bias"], stride=4)
    table = positions(32, x.shape[2:])
    w = patches.flatten(1)[:, :, None]
    x = x.flatten(2).transpose(1, 2) * (1 - w) + p["encoder"]["mask_token"] * w + table[1:]
    x = torch.cat([p["encoder"]["cls_token"].expand(len(x), -1, -1) + table[:1], x], 1)
    for i in range(3):
        x = block(p["encoder"][f"block_{i}"], x, heads=4)[0]
    x = linear(p["decoder"], norm(p["encoder"]["norm"], x)[:, 1:])
    rows, columns = patches.shape[1:]
    x = x.reshape(-1, rows, columns, 4, 4, 3).permute(0, 1, 3, 2, 4, 5).reshape(pixels.shape)
    mask = patches.repeat_interleave(4, 1).repeat_interleave(4, 2)[..., None]
    return ((x - pixels).abs() * mask).sum() / (mask.sum() + 1e-5) / 3


@pytest.fixture(scope="module")
def simmim():
    objective = make_simmim(small(), mask_ratio=0.6, mask_unit=UNIT)
    return objective, *start(objective, BATCH)


def test_loss_and_gradients_equal_pytorch(simmim):
    objective, params, state = simmim
    (loss, aux), grads = value_and_grad(objective, params, state, BATCH, RNG)
    mask = draw_mask(jax.random.split(RNG)[0], BATCH["image"], 0.6, UNIT, 4).patches
    weights = tensors(params)
    expected = torch_loss(weights, torch.tensor(np.asarray(BATCH["image"])), torch.tensor(np.array(mask)).view(3, 4, 6))
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-4)
    np.testing.assert_allclose(aux.metrics["reconstruction"], expected.item(), rtol=1e-4)
    assert_grads_close(grads, gradients(expected, weights))


def test_masked_pixels_are_not_seen_and_only_they_are_predicted(simmim):
    objective, params, state = simmim
    predict = jax.jit(objective.predict)
    out = predict(params, state, BATCH)
    hidden = np.asarray((out["masked"] == 0).all(-1))
    assert hidden.mean() == 4 / 6
    np.testing.assert_array_equal(np.asarray(out["reconstruction"])[~hidden], np.asarray(BATCH["image"])[~hidden])
    other = predict(params, state, {"image": jnp.where(hidden[..., None], 9.0, BATCH["image"])})
    np.testing.assert_array_equal(
        np.asarray(other["reconstruction"])[hidden], np.asarray(out["reconstruction"])[hidden]
    )
    errors = np.abs(np.asarray(out["reconstruction"] - BATCH["image"]))[hidden]
    np.testing.assert_allclose(out["loss"], errors.mean(), rtol=1e-5)


def test_padding_does_not_count_in_the_predicted_loss(simmim):
    objective, params, state = simmim
    predict, mask = jax.jit(objective.predict), jnp.array([1.0, 1, 0])
    padded = {"image": BATCH["image"].at[2].set(1e3), "mask": mask}
    expected = predict(params, state, BATCH | {"mask": mask})["loss"]
    np.testing.assert_allclose(predict(params, state, padded)["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("side, unit, patch, masked", [(224, 32, 16, 30), (224, 32, 4, 30), (192, 32, 16, 22)])
def test_masks_are_whole_units_and_their_number_is_rounded_up(side, unit, patch, masked):
    mask = draw_mask(jax.random.key(1), jnp.zeros((4, side, side, 3)), 0.6, unit, patch)
    units = np.asarray(mask.pixels)[:, ::unit, ::unit, 0]
    assert (units.sum(axis=(1, 2)) == masked).all()  # recipes 3.2: 30 of 49
    assert len({image.tobytes() for image in units}) == 4
    np.testing.assert_array_equal(mask.pixels[..., 0], np.kron(units, np.ones((unit, unit))))
    patches = np.kron(units, np.ones((unit // patch, unit // patch)))
    np.testing.assert_array_equal(mask.patches.reshape(patches.shape), patches)


@pytest.mark.parametrize("units", [2, 3, 5, 16, 25, 40, 49, 125, 196, 199, 200, 784, 1000])
def test_the_ratio_that_is_named_leaves_a_unit(units):
    """49 and 0.985, of 224 pixels, once named 0.98, which was refused too."""
    images = jax.ShapeDtypeStruct((1, 1, units, 1), jnp.float32)

    def draw(ratio):
        return jax.eval_shape(lambda x: draw_mask(RNG, x, ratio, 1, 1), images)

    with pytest.raises(InputError) as error:
        draw(1 - 1e-6)
    named = float(str(error.value).split("mask_ratio=")[2])
    draw(named)
    with pytest.raises(InputError):
        draw(named + 0.001)


@pytest.mark.parametrize(
    "kwargs, size, message",
    [
        ({"mask_ratio": 1.0}, 16, "mask_ratio=1.0 is outside"),
        ({"mask_unit": 6}, 16, "mask_unit=6 is no multiple of patch size 4; nearest: 8"),
        ({"mask_unit": 8}, 20, "side of 20 is no multiple of mask_unit=8; nearest: 16"),
        ({"mask_unit": 8, "mask_ratio": 0.8}, 16, "masks all 4 units of 8 pixels; nearest: at most mask_ratio=0.75"),
        ({"mask_unit": 16}, 16, "masks all 1 units of 16 pixels; nearest: a mask_unit below 16"),
    ],
)
def test_bad_arguments_are_one_line_before_training(kwargs, size, message):
    with pytest.raises(InputError, match=message):
        jax.eval_shape(make_simmim(small(), **kwargs).init, RNG, {"image": images(height=size, width=size)})
