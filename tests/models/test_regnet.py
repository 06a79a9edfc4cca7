"""RegNetY against timm's own on copied weights and random BatchNorm statistics: logits to 1e-4."""

import jax
import numpy as np
import pytest
import timm
import torch

from lvit_jax.build.parts import encoder
from lvit_jax.convert.regnet import from_timm
from lvit_jax.errors import InputError
from lvit_jax.models.heads import classifier
from lvit_jax.models.regnet import regnet
from lvit_jax.tree import flatten


def theirs(name, classes=11):
    """timm's model with random weights and statistics: a BatchNorm that were ignored or confused would show."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=classes).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
            torch.nn.init.normal_(module.bias, std=0.1)
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model


def compare(name, size):
    torch_model = theirs(name)
    images = np.random.default_rng(0).standard_normal((2, *size, 3), np.float32)
    state = {key: value.numpy() for key, value in torch_model.state_dict().items()}
    params = from_timm(state, name, "a file")
    model = classifier(regnet(name, dtype="float32"), 11, norm=False)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    assert {k: v.shape for k, v in flatten(params).items()} == {k: v.shape for k, v in flatten(shapes).items()}
    with torch.no_grad():
        expected = torch_model(torch.tensor(images).permute(0, 3, 1, 2)).numpy()
    ours = jax.jit(model.apply)({"params": params}, images)
    scale = np.ptp(expected - expected.mean(0))  # what the images make of it: the biases are no achievement
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4 * scale)
    return np.abs(np.asarray(ours) - expected).max() / np.abs(expected).max()


def test_the_smallest_size_equals_timms():
    print("largest difference over the largest logit:", compare("regnety_002", (64, 96)))


@pytest.mark.slow
def test_the_recipes_teacher_equals_timms():
    print("largest difference over the largest logit:", compare("regnety_160", (224, 224)))


def test_it_is_a_teacher_only():
    model = regnet("regnety_002")
    with pytest.raises(InputError, match="frozen teacher of classifiers"):
        model.depth  # noqa: B018 (what the optimizer asks of every encoder)
    with pytest.raises(InputError, match="whole images"):
        jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3)), np.zeros((1, 2), int))
    with pytest.raises(InputError, match="takes 3 channels, the images have 1"):
        jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 1)))
    with pytest.raises(InputError, match="unknown dtype 'float16'"):
        regnet("regnety_002", dtype="float16")


def test_the_config_of_an_import_builds_it():
    model = encoder({"name": "regnety_160", "image_size": 224, "channels": 3, "dtype": "float32"})
    shapes = jax.eval_shape(classifier(model, 1000, norm=False).init, jax.random.key(0), np.zeros((1, 224, 224, 3)))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count / 1e6 == pytest.approx(83.59 - 0.05, abs=0.06)  # timm's 83.59 M, less what folding removes
