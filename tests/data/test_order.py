"""The order is a function of (seed, epoch), an epoch a permutation, and choices keep the shares of the classes."""

import numpy as np
import pytest

from lvit_jax.data.order import permutation, places, stratified


def test_every_epoch_is_another_permutation():
    index, epoch = places(seed=3, size=10, start=0, stop=30)
    assert epoch.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    rounds = index.reshape(3, 10)
    assert all(sorted(r) == list(range(10)) for r in rounds.tolist())
    assert not np.array_equal(rounds[0], rounds[1])
    assert not np.array_equal(permutation(4, 0, 10), rounds[0])


@pytest.mark.parametrize("start", [0, 7, 10, 23])
def test_places_from_anywhere_are_the_places_of_one_sequence(start):
    whole = places(1, 10, 0, 40)
    part = places(1, 10, start, start + 12)
    assert all(np.array_equal(w[start : start + 12], p) for w, p in zip(whole, part, strict=True))


def test_stratified_choice_keeps_shares():
    labels = np.repeat(np.arange(3), [60, 30, 10])
    chosen = stratified(labels, 100, 20, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [12, 6, 2]
    assert len(np.unique(chosen)) == 20
    assert np.array_equal(chosen, stratified(labels, 100, 20, seed=0))
    assert not np.array_equal(chosen, stratified(labels, 100, 20, seed=1))
    assert len(stratified(labels, 100, 7, seed=0)) == 7  # the remainders go somewhere
    assert len(stratified(None, 100, 20, seed=0)) == 20
