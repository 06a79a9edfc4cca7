"""Classification: loss and gradients against PyTorch, rng, drop-path, the menu."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from common import assert_grads_close, images, small, start, value_and_grad
from torch_reference import encode, gradients, linear, norm, tensors

from lvit_jax.errors import InputError
from lvit_jax.objectives import NEEDS_TEACHER, OBJECTIVES
from lvit_jax.objectives.classify import make_classify
from lvit_jax.objectives.mixing import mix, soft_labels
from lvit_jax.tree import flatten

BATCH = {"image": images(batch=5), "label": jnp.array([3, 1, 0, 6, 3])}


def torch_logits(weights, pixels, pool):
    tokens = encode(weights["encoder"], pixels, None, heads=4).tokens
    head = weights["head"]
    return linear(head["fc"], norm(head["norm"], tokens[:, 1:].mean(1) if pool == "mean" else tokens[:, 0]))


@pytest.mark.parametrize("pool, mixup, smoothing", [("mean", 0.0, 0.1), ("cls", 0.8, 0.0)])
def test_loss_gradients_and_logits_equal_pytorch(pool, mixup, smoothing):
    rng = jax.random.key(3)
    objective = make_classify(small(), classes=7, pool=pool, mixup=mixup, smoothing=smoothing)
    params, state = start(objective, BATCH)
    (loss, aux), grads = value_and_grad(objective, params, state, BATCH, rng)

    targets = soft_labels(BATCH["label"], 7, smoothing)
    mixed, targets = mix(jax.random.split(rng)[0], BATCH["image"], targets, mixup=mixup, cutmix=0.0)
    weights = tensors(params)
    logits = torch_logits(weights, torch.tensor(np.asarray(mixed)), pool)
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(np.asarray(targets)))
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-4)
    assert_grads_close(grads, gradients(expected, weights))
    hits = logits.argmax(1).numpy() == np.asarray(BATCH["label"])
    np.testing.assert_allclose(aux.metrics["accuracy"], hits.mean())

    predicted = jax.jit(objective.predict)(params, state, BATCH)["logits"]
    whole = torch_logits(weights, torch.tensor(np.asarray(BATCH["image"])), pool)
    np.testing.assert_allclose(predicted, whole.detach(), rtol=1e-4, atol=1e-4)


def test_the_head_starts_as_told_and_the_encoder_has_no_norm():
    init = jax.jit(make_classify(small(), classes=200, head_std=2e-5).init)
    params = init(jax.random.key(0), BATCH).params
    assert set(params) == {"encoder", "head"} and "norm" not in params["encoder"]
    assert 1.8e-5 < np.std(params["head"]["fc"]["kernel"]) < 2.2e-5
    assert not np.any(params["head"]["fc"]["bias"])


def test_drop_path_draws_from_the_rng_in_training_only():
    objective = make_classify(small(drop_path=0.5), classes=7)
    params, state = start(objective, BATCH)
    loss = jax.jit(lambda rng: objective.loss(params, state, BATCH, rng)[0])
    losses = {float(loss(jax.random.key(i))) for i in (0, 0, 1, 2)}
    assert len(losses) == 3
    logits = objective.predict(params, state, BATCH)["logits"]
    np.testing.assert_array_equal(logits, objective.predict(params, state, BATCH)["logits"])


@pytest.mark.parametrize(
    "kwargs, message",
    [({"pool": "means"}, "did you mean 'mean'"), ({"smoothing": 1.0}, "smoothing=1.0"), ({"group": 0}, "group=0")],
)
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(InputError, match=message):
        make_classify(small(), classes=7, **kwargs)


def test_every_objective_of_the_menu_exists():
    for name, method in OBJECTIVES.items():
        module, function = method.make.split(":")
        assert callable(getattr(importlib.import_module(module), function)), name
    assert set(OBJECTIVES) > NEEDS_TEACHER


def test_training_from_scratch_starts_from_timm_s_normal_weights():
    objective = make_classify(small(depth=4, width=64), classes=10)
    params = objective.init(jax.random.key(0), {"image": np.zeros((1, 16, 24, 3), np.float32)}).params
    for name, leaf in flatten(params["encoder"]).items():
        if name.startswith("block_") and name.endswith("/kernel"):
            assert abs(float(leaf.std()) - 0.02) < 0.001, name
