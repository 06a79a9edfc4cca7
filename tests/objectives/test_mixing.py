"""Laws of mixup and CutMix, in timm's definitions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lvit_jax.objectives.mixing import flip, mix, soft_labels

SIZE = 300  # two groups of 128 and a tail of 44
IMAGES = jnp.broadcast_to(jnp.arange(SIZE, dtype=jnp.float32)[:, None, None, None], (SIZE, 12, 16, 2))
TARGETS = jnp.eye(SIZE)
PARTNER = np.concatenate([np.arange(128)[::-1], np.arange(128, 256)[::-1], np.arange(256, SIZE)[::-1]])


@pytest.fixture(scope="module")
def run():
    """alphas -> mixed (images, targets) under a seed; one compile per pair of alphas."""
    jitted = jax.jit(partial(mix), static_argnames=("mixup", "cutmix", "group"))
    return lambda seed, **alphas: jax.tree.map(np.asarray, jitted(jax.random.key(seed), IMAGES, TARGETS, **alphas))


def weights(targets):
    """λ per image, read off the targets; asserts that all weight is on the image and its partner."""
    lam = targets[np.arange(SIZE), np.arange(SIZE)]
    rest = targets[np.arange(SIZE), PARTNER]
    np.testing.assert_allclose(lam + rest, 1, atol=1e-6)
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
    return lam


def test_partners_mirror_within_groups_and_the_tail_is_its_own_group():
    np.testing.assert_array_equal(flip(jnp.arange(SIZE), 128), PARTNER)
    np.testing.assert_array_equal(flip(jnp.arange(5), 128), [4, 3, 2, 1, 0])
    np.testing.assert_array_equal(flip(jnp.arange(4), 2), [1, 0, 3, 2])


def test_mixup_has_one_weight_per_group(run):
    images, targets = run(0, mixup=0.8, cutmix=0.0)
    lam = weights(targets)
    groups = lam[:128], lam[128:256], lam[256:]
    assert all(np.ptp(group) == 0 for group in groups) and len({group[0] for group in groups}) == 3
    expected = lam * np.arange(SIZE) + (1 - lam) * PARTNER
    np.testing.assert_allclose(images, np.broadcast_to(expected[:, None, None, None], images.shape), rtol=1e-5)


def test_cutmix_pastes_a_box_and_weighs_by_its_area(run):
    seen = 0
    for seed in range(4):
        images, targets = run(seed, mixup=0.0, cutmix=1.0)
        lam = weights(targets)
        own = images == np.arange(SIZE)[:, None, None, None]
        foreign = images == PARTNER[:, None, None, None]
        assert (own | foreign).all()
        np.testing.assert_allclose(own.mean((1, 2, 3)), lam, atol=1e-6)
        for i in (0, 128, 256):
            rows, columns = np.nonzero(foreign[i, :, :, 0])
            box = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert len(rows) == box[0] * box[1]
            seen += 1
    assert seen == 12


def test_both_means_a_coin_per_group(run):
    kinds = set()
    for seed in range(6):
        images, _ = run(seed, mixup=0.8, cutmix=1.0)
        for i in (0, 128, 256):  # an image of one value has been blended as a whole
            kinds.add("mixup" if np.ptp(images[i]) == 0 else "cutmix")
    assert kinds == {"mixup", "cutmix"}


def test_weights_follow_beta(run):
    lam = np.concatenate([weights(run(seed, mixup=0.2, cutmix=0.0)[1])[[0, 128, 256]] for seed in range(100)])
    assert abs(lam.mean() - 0.5) < 0.1
    assert abs(lam.var() - 0.25 / 1.4) < 0.05  # Beta(α, α): 1 / (4 (2α + 1))


def test_off_is_off():
    images, targets = mix(jax.random.key(0), IMAGES, TARGETS, mixup=0.0, cutmix=0.0)
    assert images is IMAGES and targets is TARGETS


def test_smoothing_is_timms():
    targets = soft_labels(jnp.array([2, 0]), 5, 0.1)
    np.testing.assert_allclose(targets, [[0.02, 0.02, 0.92, 0.02, 0.02], [0.92, 0.02, 0.02, 0.02, 0.02]], rtol=1e-6)
