"""Unbiased mini-batch linear CKA against its definition in float64, and its laws."""

import numpy as np
import pytest

from lvit_jax.errors import Stopped
from lvit_jax.evals.cka import cka, grams, hsic

RNG = np.random.default_rng(0)


def from_definition(k, m):
    """The formula of recipes 10.1 as it is written, in float64, of two Gram matrices."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    ones = np.ones(n)
    value = np.trace(k @ m) + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
    return (value - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3))


def features(batches, n, shapes, mean=0.0):
    """[batches][layers] of [n,N,D] that share a cause, so that layers are somewhat alike; `mean` is common to all."""
    cause = RNG.standard_normal((batches, n, 6))
    means = [mean * RNG.standard_normal(shape) for shape in shapes]
    made = []
    for batch in cause:
        mixed = [np.tanh(batch @ RNG.standard_normal((6, int(np.prod(shape))))) for shape in shapes]
        mixed = [x.reshape(n, *shape) + m for x, shape, m in zip(mixed, shapes, means, strict=True)]
        made.append([(x + RNG.standard_normal(x.shape)).astype(np.float32) for x in mixed])
    return made


def of(made, masks=None):
    masks = np.ones((len(made), len(made[0][0])), np.float32) if masks is None else masks
    products = np.stack([np.asarray(grams(layers, mask)) for layers, mask in zip(made, masks, strict=True)])
    return hsic(products, masks)


@pytest.mark.parametrize("mean", [0.0, 30.0])  # a common mean that float32 must not drown in
def test_it_is_the_definition_in_float64(mean):
    made = features(3, 12, [(4, 16), (9, 100), (196, 64)], mean)
    flat = [[x.reshape(len(x), -1).astype(np.float64) for x in layers] for layers in made]
    pairs = [[[from_definition(a @ a.T, b @ b.T) for b in layers] for a in layers] for layers in flat]
    expected = np.mean(pairs, axis=0)  # averaged first
    own = np.sqrt(np.diag(expected))
    found = of(made)
    np.testing.assert_allclose(found / np.outer(own, own), expected / np.outer(own, own), atol=1e-6)
    np.testing.assert_allclose(cka(found), expected / np.outer(own, own), atol=1e-6)  # divided last
    assert 0.05 < cka(found)[0, 1] < 0.95  # of layers that are neither the same nor strangers


def test_a_layer_is_all_like_itself_and_its_rotations_and_multiples():
    made = features(2, 10, [(3, 8), (5, 8)])
    rotation = np.linalg.qr(RNG.standard_normal((24, 24)))[0]
    turned = [[*x, 7 * (x[0].reshape(10, -1) @ rotation).reshape(x[0].shape)] for x in made]
    found = cka(of(turned))
    np.testing.assert_allclose(np.diag(found), 1, atol=1e-12)
    np.testing.assert_allclose(found[0, 2], 1, atol=1e-6)
    np.testing.assert_allclose(found[0, 1], found[2, 1], atol=1e-6)


def test_it_is_unbiased_strangers_have_nothing_in_common_however_few_images():
    """The biased estimate of these is 0.9: many features, few images."""
    made = [[RNG.standard_normal((8, 1, 200)).astype(np.float32) for _ in range(2)] for _ in range(400)]
    assert abs(cka(of(made))[0, 1]) < 0.05


def test_masked_images_are_as_if_they_were_not_there():
    made = features(2, 9, [(2, 8), (3, 8)])
    masks = np.ones((2, 9), np.float32)
    masks[1, [0, 5]] = 0
    kept = [of([[x[mask > 0] for x in layers]]) for layers, mask in zip(made, masks, strict=True)]
    np.testing.assert_allclose(of(made, masks), np.mean(kept, axis=0), rtol=1e-5)


def test_too_few_readable_images_stop_it():
    masks = np.zeros((1, 9), np.float32)
    masks[0, :3] = 1
    with pytest.raises(Stopped, match="3 readable"):
        of(features(1, 9, [(2, 8)]), masks)


def test_a_layer_that_is_the_same_for_all_images_is_like_nothing():
    made = features(1, 8, [(2, 8), (2, 8)])
    made[0][1][:] = made[0][1][:1]
    found = cka(of(made))
    assert np.isnan(found[0, 1]) and np.isnan(found[1, 1]) and np.isclose(found[0, 0], 1)
