"""Accuracies against scikit-learn, on batches with padding, on one device and on four."""

import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, recall_score, top_k_accuracy_score

from lvit_jax.errors import Stopped
from lvit_jax.evals.classify import make_classify
from lvit_jax.types import Objective

CLASSES, EXAMPLES = 7, 53
# The objective's answers are the images: logits [N,C]. Class 5 has no example.
OBJECTIVE = Objective(None, None, lambda params, state, batch: {"logits": batch["image"]})


def answers():
    """Logits float32 [N,C], where every third image is right, and labels of very unequal frequency int32 [N]."""
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 3, 4, 6], EXAMPLES, p=[0.5, 0.2, 0.1, 0.1, 0.06, 0.04]).astype(np.int32)
    labels[:6] = [0, 1, 2, 3, 4, 6]
    logits = rng.normal(size=(EXAMPLES, CLASSES)).astype(np.float32)
    logits[::3][np.arange(len(labels[::3])), labels[::3]] += 9
    return logits, labels


def padded(logits, labels, size):
    """Batches of `size`; the padding of the last one looks like right answers of class 0."""
    for start in range(0, len(labels), size):
        short = size - len(labels[start : start + size])
        filling = np.eye(CLASSES, dtype=np.float32)[np.zeros(short, int)]
        yield {
            "image": np.concatenate([logits[start : start + size], filling]),
            "label": np.concatenate([labels[start : start + size], np.zeros(short, np.int32)]),
            "mask": np.concatenate([np.ones(size - short, np.float32), np.zeros(short, np.float32)]),
        }


def test_figures_are_those_of_scikit_learn():
    logits, labels = answers()
    figures = make_classify(OBJECTIVE)({}, None, padded(logits, labels, 16))
    guesses = logits.argmax(axis=1)
    seen = np.unique(labels)
    assert figures["mean_per_class"] == pytest.approx(100 * balanced_accuracy_score(labels, guesses), rel=1e-12)
    macro = recall_score(labels, guesses, labels=seen, average="macro")
    assert figures["mean_per_class"] == pytest.approx(100 * macro, rel=1e-12)
    assert figures["top1"] == pytest.approx(100 * np.mean(guesses == labels), rel=1e-12)
    top5 = top_k_accuracy_score(labels, logits, k=5, labels=range(CLASSES))
    assert figures["top5"] == pytest.approx(100 * top5, rel=1e-12)
    assert (figures["examples"], figures["classes"]) == (EXAMPLES, 6)
    assert abs(figures["mean_per_class"] - figures["top1"]) > 1  # else the test would not tell them apart


def test_figures_do_not_depend_on_the_batch():
    logits, labels = answers()
    classify = make_classify(OBJECTIVE)
    figures = [classify({}, None, padded(logits, labels, size)) for size in (1, 16, EXAMPLES)]
    for other in figures[1:]:
        assert other == figures[0] | {"loss": pytest.approx(figures[0]["loss"], rel=1e-6)}


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_model_that_answers_alike_or_with_no_number_is_never_right(value):
    logits, labels = answers()
    figures = make_classify(OBJECTIVE)({}, None, padded(np.full_like(logits, value), labels, 16))
    assert (figures["top1"], figures["top5"], figures["mean_per_class"]) == (0, 0, 0)


def test_nothing_to_evaluate():
    batch = {"image": jnp.zeros((2, 3)), "label": jnp.zeros(2, jnp.int32), "mask": jnp.zeros(2)}
    with pytest.raises(Stopped, match="nothing to evaluate"):
        make_classify(OBJECTIVE)({}, None, [batch])


def test_four_devices_count_as_one():
    """In a subprocess with forced devices: the batches lie over all of them, the figures are the same."""
    code = """
import sys; sys.path.insert(0, sys.argv[1])
import jax, pytest
from test_classify_figures import OBJECTIVE, answers, make_classify, padded
from lvit_jax.training import mesh as mesh_lib
mesh, batches = mesh_lib.make_mesh(), list(padded(*answers(), 16))
one = make_classify(OBJECTIVE)({}, None, batches)
four = make_classify(OBJECTIVE)({}, None, [mesh_lib.put(mesh, batch) for batch in batches])
assert mesh.size == 4 and four == one | {"loss": pytest.approx(one["loss"], rel=1e-6)}, (one, four)
"""
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    subprocess.run([sys.executable, "-c", code, os.path.dirname(__file__)], check=True, env=env)
