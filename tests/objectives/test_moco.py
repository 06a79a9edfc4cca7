"""MoCo-v3 against a direct PyTorch computation of recipes 3.1, and the laws of its momentum encoder."""

import copy
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_reference
from common import assert_grads_close, small, start
from torch_reference import encode, gradients, tensors

from lvit_jax.errors import InputError
from lvit_jax.objectives.moco import make_moco
from lvit_jax.tree import flatten, unflatten

RNG = jax.random.key(5)
STEPS, STEP, HIDDEN, DIM, T = 10, 4, 48, 24, 0.2
VIEWS = {"image": jax.random.normal(jax.random.key(1), (12, 2, 8, 12, 3))}
BODY = {"width": 32, "depth": 2, "heads": 4, "positions": "sincos_moco"}


@pytest.fixture(scope="module")
def moco():
    return make_moco(small(**BODY), steps=STEPS, hidden=HIDDEN, dim=DIM)


@pytest.fixture(scope="module")
def loss_and_grad(moco):
    return jax.jit(jax.value_and_grad(moco.loss, has_aux=True))


@pytest.fixture(scope="module")
def begun(moco):
    """(params, state) in the middle of a run: random weights, other ones in the slow copies, used statistics."""
    params, state = start(moco, VIEWS)
    rng = np.random.default_rng(1)

    def positive(leaf):
        return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)

    momentum = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape, np.float32), state.extra["momentum"])
    stats = jax.tree.map(positive, state.extra["stats"])
    extra = {"momentum": momentum, "stats": stats, "updates": jnp.int32(STEP)}
    return params, state.replace(step=jnp.int32(STEP), extra=extra)


def torch_head(weights, stats, widths):
    """MoCo-v3's heads from PyTorch's own layers, our weights and running statistics in them."""
    layers = []
    for i, width in enumerate(widths):
        kernel = weights[f"fc_{i}"]["kernel"]
        fc = torch.nn.Linear(*kernel.shape, bias=False)
        norm = torch.nn.BatchNorm1d(width, affine=i + 1 < len(widths))
        fc.weight.data = torch.tensor(np.asarray(kernel)).T.contiguous()
        norm.running_mean.data = torch.tensor(np.asarray(stats[f"norm_{i}"]["mean"]))
        norm.running_var.data = torch.tensor(np.asarray(stats[f"norm_{i}"]["var"]))
        if norm.affine:
            norm.weight.data = torch.tensor(np.asarray(weights[f"norm_{i}"]["scale"]))
            norm.bias.data = torch.tensor(np.asarray(weights[f"norm_{i}"]["bias"]))
        layers += [fc, norm, *([torch.nn.ReLU()] if norm.affine else [])]
    return torch.nn.Sequential(*layers)


def statistics(head):
    norms = [layer for layer in head if isinstance(layer, torch.nn.BatchNorm1d)]
    return {f"norm_{i}": {"mean": n.running_mean.numpy(), "var": n.running_var.numpy()} for i, n in enumerate(norms)}


def head_gradients(head):
    layers, tree = list(head), {}
    for i, fc in enumerate(layer for layer in layers if isinstance(layer, torch.nn.Linear)):
        tree[f"fc_{i}"] = {"kernel": fc.weight.grad.T.numpy()}
    for i, norm in enumerate(layer for layer in layers if isinstance(layer, torch.nn.BatchNorm1d)):
        if norm.affine:
            tree[f"norm_{i}"] = {"scale": norm.weight.grad.numpy(), "bias": norm.bias.grad.numpy()}
    return tree


def swapped(width, grid, maes=torch_reference.positions):
    """MoCo-v3's table: the halves of MAE's in the other order."""
    table = maes(width, grid)
    return torch.cat([table[:, width // 2 :], table[:, : width // 2]], dim=1)


@pytest.fixture(scope="module")
def reference(begun):
    """Loss, gradients, batch statistics, slow weights and projections, all by PyTorch."""
    params, state = begun
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_reference, "positions", swapped)
        return torch_moco(params, state)


def torch_moco(params, state):
    m = 1 - 0.5 * (1 + math.cos(math.pi * STEP / STEPS)) * (1 - 0.99)
    slow = {
        name: jax.tree.map(lambda k, q: np.asarray(m * np.float64(k) + (1 - m) * np.float64(q), np.float32), old, new)
        for name, old, new in ((n, state.extra["momentum"][n], params[n]) for n in ("encoder", "projector"))
    }
    stats, encoder = state.extra["stats"], tensors(params["encoder"])
    project = torch_head(params["projector"], stats["projector"], (HIDDEN, HIDDEN, DIM))
    evaluated = copy.deepcopy(project).eval()
    predict = torch_head(params["predictor"], stats["predictor"], (HIDDEN, DIM))
    project_slow = torch_head(slow["projector"], stats["momentum_projector"], (HIDDEN, HIDDEN, DIM))
    views = [torch.tensor(np.asarray(VIEWS["image"][:, v])) for v in (0, 1)]

    def cls(weights, pixels):
        return encode(weights, pixels, None, heads=4).tokens[:, 0]

    queries = [predict(project(cls(encoder, view))) for view in views]
    with torch.no_grad():
        keys = [project_slow(cls(tensors(slow["encoder"]), view)) for view in views]
        projection = evaluated(cls(encoder, views[0]))
    loss = 0
    for q, k in ((queries[0], keys[1]), (queries[1], keys[0])):
        q, k = (torch.nn.functional.normalize(x, dim=1) for x in (q, k))
        loss = loss + 2 * T * torch.nn.functional.cross_entropy(q @ k.T / T, torch.arange(len(q)))
    loss.backward(retain_graph=True)
    grads = {"encoder": gradients(loss, encoder), "projector": head_gradients(project)}
    grads["predictor"] = head_gradients(predict)
    stats = {"projector": statistics(project), "predictor": statistics(predict)}
    stats["momentum_projector"] = statistics(project_slow)
    return {"loss": loss.item(), "grads": grads, "stats": stats, "slow": slow, "projection": projection.numpy()}


def assert_close(ours, theirs, rtol=1e-4, atol=1e-5):
    ours, theirs = flatten(ours), flatten(theirs)
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        np.testing.assert_allclose(ours[name], expected, rtol=rtol, atol=atol, err_msg=name)


def test_loss_gradients_and_statistics_equal_pytorch(loss_and_grad, begun, reference):
    params, state = begun
    (loss, aux), grads = loss_and_grad(params, state, VIEWS, RNG)
    np.testing.assert_allclose(loss, reference["loss"], rtol=1e-4)
    assert_close(aux.extra["stats"], reference["stats"])
    assert_close(aux.extra["momentum"], reference["slow"], rtol=1e-6, atol=1e-7)
    ours, theirs = flatten(grads), flatten(reference["grads"])
    # What shifts all features alike is taken off by the projector's first BatchNorm: rounding, and nothing to compare.
    shift, scale = ours.pop("encoder/norm/bias"), theirs["encoder/norm/scale"]
    del theirs["encoder/norm/bias"]
    assert np.linalg.norm(shift) < 1e-5 * np.linalg.norm(scale)
    assert_grads_close(unflatten(ours), unflatten(theirs))


def test_predict_equals_pytorch_in_evaluation(moco, begun, reference):
    params, state = begun
    out = jax.jit(moco.predict)(params, state, {"image": VIEWS["image"][:, 0]})
    np.testing.assert_allclose(out["projection"], reference["projection"], rtol=1e-4, atol=1e-5)
    assert out["features"].shape == (12, 32)


def test_slow_copies_follow_their_schedule(loss_and_grad, begun):
    """A whole run from loaded weights, beside a loop in numpy; within a step they move once."""
    params, state = begun
    slow, extra = None, state.extra | {"updates": jnp.int32(0)}
    for t in range(STEPS):
        (_, aux), grads = loss_and_grad(params, state.replace(step=jnp.int32(t), extra=extra), VIEWS, RNG)
        quick = {name: np.float64(leaf) for name, leaf in flatten(params).items() if not name.startswith("predictor")}
        m = 1 - 0.5 * (1 + math.cos(math.pi * t / STEPS)) * (1 - 0.99)
        slow = quick if slow is None else {name: m * slow[name] + (1 - m) * quick[name] for name in slow}
        np.testing.assert_allclose(aux.metrics["momentum"], m, rtol=1e-6)
        assert_close(aux.extra["momentum"], unflatten(slow), rtol=1e-6, atol=1e-6)
        params, extra = jax.tree.map(lambda p, g: p - 0.05 * g, params, grads), aux.extra
    (_, aux), _ = loss_and_grad(params, state.replace(step=jnp.int32(t), extra=extra), VIEWS, RNG)
    for name, leaf in flatten(aux.extra["momentum"]).items():  # the second microbatch of a step
        np.testing.assert_array_equal(leaf, flatten(extra["momentum"])[name])


def test_the_start_is_mocos():
    encoder = small(**BODY | {"width": 64})
    variables = jax.jit(make_moco(encoder, steps=1, hidden=HIDDEN, dim=DIM).init)(jax.random.key(0), VIEWS)
    params = flatten(variables.params)
    for name in ("encoder/block_0/attn/qkv/kernel", "encoder/block_1/attn/qkv/kernel"):
        limit = math.sqrt(6 / (64 + 64))
        assert 0.98 * limit < np.abs(params[name]).max() <= limit
    assert 1e-7 < np.std(params["encoder/cls_token"]) < 1e-5
    assert not np.any(params["encoder/patch_embed/bias"])
    assert 0.95 / 8 < np.abs(params["projector/fc_0/kernel"]).max() <= 1 / 8  # PyTorch: 1/√fan_in
    assert "projector/norm_1/scale" in params and "projector/norm_2/scale" not in params
    for name, leaf in flatten(variables.extra["momentum"]).items():
        np.testing.assert_array_equal(leaf, params[name])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": None}, "moco needs the number of steps"),
        ({"temperature": 0.0}, "objective.temperature=0.0 must be above 0"),
        ({"momentum": 1.5}, r"outside \[0, 1\]; nearest: 1"),
    ],
)
def test_bad_arguments_are_named(fields, message):
    with pytest.raises(InputError, match=message):
        make_moco(small(), **{"steps": 5} | fields)


def test_a_recipe_of_one_view_is_refused(moco):
    with pytest.raises(InputError, match=r"data\.recipe=moco"):
        moco.init(jax.random.key(0), {"image": VIEWS["image"][:, 0]})
