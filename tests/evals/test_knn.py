"""Nearest neighbours against scikit-learn's exact ones with the same weights, over blocks and ragged batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from lvit_jax.errors import InputError
from lvit_jax.evals.knn import KS, make_bank, make_knn, neighbours, votes


def random_features():
    """Ten Gaussian classes in 16 dimensions that overlap: bank, its labels, queries, theirs."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 1200)
    features = rng.normal(size=(10, 16))[labels] + 1.5 * rng.normal(size=(1200, 16))
    return split(features.astype(np.float32), labels)


def digits():
    """Pixels of the bundled digits."""
    images, labels = load_digits(return_X_y=True)
    return split(images.astype(np.float32), labels)


def split(features, labels):
    return features[:1000], labels[:1000].astype(np.int32), features[1000:], labels[1000:].astype(np.int32)


def batches(features, labels, size):
    """Padded with a copy of the first row, which must not count."""
    for start in range(0, len(labels), size):
        place = np.arange(start, start + size)
        real = place < len(labels)
        place = np.where(real, place, 0)
        part = {"feature": features[place], "label": labels[place], "mask": real.astype(np.float32)}
        yield {name: jnp.asarray(rows) for name, rows in part.items()}


def reference(bank, labels, queries, k):
    """Probabilities of scikit-learn's classifier, in float64."""
    model = KNeighborsClassifier(k, algorithm="brute", metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07))
    return model.fit(bank.astype(np.float64), labels).predict_proba(queries.astype(np.float64))


@pytest.mark.parametrize("data", [random_features, digits])
@pytest.mark.parametrize("block", [130, 2**14])  # many blocks, the last of them padded; one
def test_predictions_are_scikit_learns(data, block):
    bank, labels, queries, truth = data()
    blocks = make_bank(bank, labels, block)
    assert blocks["mask"].sum() == 1000 and blocks["feature"].shape[1] <= block
    near, theirs = neighbours(blocks, jnp.asarray(queries), max(KS))
    found = make_knn(KS, 10)(blocks, batches(queries, truth, 64))
    for k in KS:
        expected = reference(bank, labels, queries, k)
        np.testing.assert_array_equal(votes(near[:, :k], theirs[:, :k], 10).argmax(axis=1), expected.argmax(axis=1))
        rank = (expected > expected[np.arange(len(truth)), truth][:, None]).sum(axis=1)
        five = (rank < 5) & (expected[np.arange(len(truth)), truth] > 0)
        assert found[k]["top1"] == pytest.approx(100 * (rank < 1).mean())
        assert found[k]["top5"] == pytest.approx(100 * five.mean())


def test_ties_go_to_the_first_row_and_to_the_lowest_class():
    """Nine copies of one row in blocks of four: the neighbours are the first ones; classes 2 and 1 tie at one vote."""
    bank = make_bank(np.ones((9, 3), np.float32), np.array([2, 1, 0, 0, 3, 3, 3, 3, 3]), 4)
    near, labels = neighbours(bank, jnp.ones((1, 3)), 6)
    np.testing.assert_array_equal(labels[0], [2, 1, 0, 0, 3, 3])
    gathered = [votes(near[:, :k], labels[:, :k], 4).argmax(axis=1)[0] for k in (1, 2, 3, 4)]
    assert gathered == [2, 1, 0, 0]

    def tops(true, k):
        batch = {"feature": jnp.ones((1, 3)), "label": jnp.array([true]), "mask": jnp.ones(1)}
        return make_knn((k,), 4)(bank, [batch])[k]

    assert tops(1, 2) == {"top1": 100.0, "top5": 100.0}
    assert tops(2, 2) == {"top1": 0.0, "top5": 100.0}
    assert tops(3, 4) == {"top1": 0.0, "top5": 0.0}  # no neighbour: not among the five, though there are four classes


def test_length_does_not_matter_and_a_dead_feature_is_near_to_nothing():
    bank, labels, queries, _ = random_features()
    blocks = make_bank(bank * np.linspace(0.1, 9, len(bank), dtype=np.float32)[:, None], labels)
    near, found = neighbours(blocks, jnp.asarray(7 * queries), 5)
    expected = neighbours(make_bank(bank, labels), jnp.asarray(queries), 5)
    np.testing.assert_array_equal(found, expected[1])
    np.testing.assert_allclose(near, expected[0], atol=1e-6)
    assert not neighbours(blocks, jnp.zeros((1, 16)), 5)[0].any()


def test_features_that_are_no_numbers_are_never_right():
    bank, labels, queries, truth = random_features()
    found = make_knn((5,), 10)(make_bank(bank, labels), batches(np.full_like(queries, np.nan), truth, 200))
    assert found[5] == {"top1": 0.0, "top5": 0.0}


@pytest.mark.parametrize(("k", "message"), [(1001, "k=1001 .* bank of 1000 images"), (0, "k=0")])
def test_k_must_fit_the_bank(k, message):
    bank, labels, queries, truth = random_features()
    with pytest.raises(InputError, match=message):
        make_knn((k,), 10)(make_bank(bank, labels, 300), batches(queries, truth, 64))


def test_the_bank_lies_in_memory_once():
    """What a block needs beside the bank does not grow with it: the blocks are scanned."""
    args = jax.eval_shape(lambda: (jnp.zeros((64, 512, 32)), jnp.zeros((64, 512), jnp.int32), jnp.zeros((64, 512))))
    bank = dict(zip(("feature", "label", "mask"), args, strict=True))
    compiled = jax.jit(neighbours, static_argnums=2).lower(bank, jnp.zeros((8, 32)), 10).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 64 * 512 * 32 * 4 / 8
