"""Probes of all layers: each as if alone, and as PyTorch's BatchNorm, Linear and MAE's LARS have it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from common import small

from lvit_jax.errors import InputError
from lvit_jax.models.hiera import hiera
from lvit_jax.models.probes import choose_layers, pooled, spot, whole
from lvit_jax.objectives.probe import make_probe
from lvit_jax.training.optim import make_tx
from lvit_jax.training.step import make_init, make_step
from lvit_jax.tree import flatten

CLASSES, STEPS = 5, 6
ENCODER = small(width=16, depth=2, heads=2, drop_path=0.5)
PLAN = {"name": "lars", "blr": 300.0, "steps": STEPS, "steps_per_epoch": 2, "batch_size": 8, "warmup_epochs": 1.0}


def batch(step):
    rng = np.random.default_rng((7, step))
    images = rng.normal(size=(8, 8, 12, 3)).astype(np.float32)
    return {"image": jnp.asarray(images), "label": jnp.asarray(rng.integers(0, CLASSES, 8), jnp.int32)}


def train(layers=(), pools=()):
    """The states before, between and after the steps, and the metrics of each."""
    objective = make_probe(ENCODER, classes=CLASSES, layers=layers, pools=pools)
    params = jax.eval_shape(objective.init, jax.random.key(0), batch(0)).params
    tx, schedule = make_tx(params, weight_decay=0.0, momentum=0.9, **PLAN)
    states, metrics = [jax.jit(make_init(objective, tx))(jax.random.key(0), batch(0), {}, {})], []
    step = jax.jit(make_step(objective, tx, seed=0))
    for number in range(STEPS):
        state, found = step(states[-1], batch(number))
        states, metrics = [*states, state], [*metrics, found]
    return objective, states, metrics, [float(schedule(number)) for number in range(STEPS)]


@pytest.fixture(scope="module")
def all_layers():
    return train()


def test_every_layer_trains_as_if_alone(all_layers):
    _, states, metrics, _ = all_layers
    assert len(states[-1].params["heads"]) == 2 * 3
    alone = train((1,), ("cls",))[1]
    name = spot(1, "cls")
    assert list(alone[-1].params["heads"]) == [name]
    for part in (lambda s: s.params["heads"][name]["fc"], lambda s: s.extra["stats"][name]["norm"]):
        for key, leaf in part(alone[-1]).items():
            np.testing.assert_allclose(part(states[-1])[key], leaf, rtol=1e-5, atol=1e-7, err_msg=key)
    start, end = (state.params["heads"][name]["fc"]["kernel"] for state in (states[0], states[-1]))
    assert np.abs(end - start).max() > 1e-3
    assert float(metrics[0]["loss"]) == pytest.approx(6 * np.log(CLASSES), rel=0.02)  # the sum of all, near chance


def test_the_encoder_stays_as_it_is_and_is_seen_as_in_evaluation(all_layers):
    objective, states, _, _ = all_layers
    before, after = (flatten(state.frozen) for state in (states[0], states[-1]))
    assert len(before) > 20 and all(np.array_equal(leaf, after[name]) for name, leaf in before.items())
    assert not any("block" in jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(states[0].opt_state))
    losses = [float(objective.loss(states[0].params, states[0], batch(0), jax.random.key(i))[0]) for i in (0, 1)]
    assert losses[0] == losses[1]  # though its drop-path is 0.5


def test_a_probe_is_torchs_batchnorm_and_linear_under_maes_lars(all_layers):
    """LARS as in MAE's util/lars.py: matrices by their trust ratio, biases plainly, momentum, then the rate."""
    objective, states, _, rates = all_layers
    see = jax.jit(lambda images: pooled(whole(ENCODER, states[0].frozen, images), (2,), ("mean",)))
    name = spot(2, "mean")
    norm, fc = torch.nn.BatchNorm1d(16, affine=False, eps=1e-6), torch.nn.Linear(16, CLASSES)
    start = states[0].params["heads"][name]["fc"]
    with torch.no_grad():
        fc.weight.copy_(torch.tensor(np.array(start["kernel"]).T))
        fc.bias.zero_()
    speed = [torch.zeros_like(p) for p in fc.parameters()]
    for number in range(STEPS):
        data = batch(number)
        logits = fc(norm(torch.tensor(np.array(see(data["image"])[name]))))
        fc.zero_grad()
        torch.nn.functional.cross_entropy(logits, torch.tensor(np.array(data["label"])).long()).backward()
        with torch.no_grad():
            for p, v in zip(fc.parameters(), speed, strict=True):
                scale = 0.001 * p.norm() / p.grad.norm() if p.ndim > 1 else 1.0
                v.mul_(0.9).add_(scale * p.grad)
                p.sub_(rates[number] * v)
    ours = states[-1].params["heads"][name]["fc"]
    np.testing.assert_allclose(ours["kernel"], fc.weight.detach().T, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours["bias"], fc.bias.detach(), rtol=1e-4, atol=1e-6)
    for key, theirs in {"mean": norm.running_mean, "var": norm.running_var}.items():
        np.testing.assert_allclose(states[-1].extra["stats"][name]["norm"][key], theirs, rtol=1e-4, atol=1e-6)
    norm.eval()
    expected = fc(norm(torch.tensor(np.array(see(batch(9)["image"])[name])))).detach()
    found = objective.predict(states[-1].params, states[-1], batch(9))["logits"][name]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_a_classifiers_features_are_normed_by_its_head():
    """`norm`: an encoder without a final norm and the norm of its head are the encoder with that norm."""
    objective = make_probe(ENCODER.clone(final_norm=False), classes=CLASSES, layers=(2,), pools=("cls",), norm=True)
    variables = jax.jit(objective.init)(jax.random.key(0), batch(0))
    assert set(variables.frozen) == {"encoder", "norm"} and "norm" not in variables.frozen["encoder"]
    scale = variables.frozen["norm"]["scale"] * 1.5
    frozen = variables.frozen | {"norm": variables.frozen["norm"] | {"scale": scale}}
    normed = {"encoder": frozen["encoder"] | {"norm": frozen["norm"]}}
    features = [
        pooled(whole(encoder, params, batch(0)["image"]), (2,), ("cls",))[spot(2, "cls")]
        for encoder, params in ((ENCODER.clone(final_norm=False), frozen), (ENCODER, normed))
    ]
    np.testing.assert_allclose(*features, atol=1e-5)
    assert np.abs(features[0]).max() > 0.5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (1, 3)}, "layer 3 does not exist; this encoder has layers 0 to 2"),
        ({"pools": ("means",)}, "did you mean 'mean'"),
        ({"head_std": 0.0}, "head_std=0.0"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(InputError, match=message):
        make_probe(ENCODER, classes=CLASSES, **fields)


def test_an_encoder_without_cls_has_the_mean_alone():
    encoder = hiera("hiera_micro", dtype="float32")
    with pytest.raises(InputError, match="no CLS token; nearest: 'mean'"):
        make_probe(encoder, classes=CLASSES, pools=("cls",), cls=False)
    assert choose_layers((), encoder.depth + 1) == tuple(range(6))
