"""The order of the data: a pure function of (seed, step), so that nothing about an iterator is ever saved.

Position p of the endless sequence of examples belongs to epoch p // N and there to entry p % N of the permutation of
(seed, epoch). Step s takes positions sB .. (s+1)B-1, whatever the number of processes; process p of P reads the p-th
of P equal slices of every batch.
"""

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order of an epoch: int64 [size], every index once (25 ms for ImageNet; read-only because it is shared)."""
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(size)
    order.setflags(write=False)
    return order


def places(seed: int, size: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and epochs (both int64 [stop - start]) of positions start .. stop-1 of the endless sequence."""
    position = np.arange(start, stop, dtype=np.int64)
    epoch, entry = position // size, position % size
    index = np.empty_like(position)
    for e in np.unique(epoch):
        index[epoch == e] = permutation(seed, int(e), size)[entry[epoch == e]]
    return index, epoch


def stratified(labels: np.ndarray | None, size: int, count: int, seed: int) -> np.ndarray:
    """A seeded choice of `count` of `size` examples, sorted int64 [count], with the shares of the classes kept.

    Args:
      labels: int32 [size], or None for a plain random choice.
      count: how many; each class gets its exact share rounded down, the largest remainders get one more.
    """
    shuffled = _shuffled(seed, size)
    if labels is None:
        return np.sort(shuffled[:count])
    ids, counts = np.unique(labels, return_counts=True)
    share = counts * count / size
    quota = np.floor(share).astype(int)
    quota[np.argsort(quota - share, kind="stable")[: count - quota.sum()]] += 1
    chosen = [shuffled[labels[shuffled] == i][:q] for i, q in zip(ids, quota, strict=True)]
    return np.sort(np.concatenate(chosen))


def balanced(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """A seeded choice of `per_class` examples of every class, sorted; that of fewer is part of that of more.

    Args: labels: int32 [N]; each class that occurs has so many.
    """
    shuffled = _shuffled(seed, len(labels))
    chosen = [shuffled[labels[shuffled] == i][:per_class] for i in np.unique(labels)]
    return np.sort(np.concatenate(chosen))


def _shuffled(seed: int, size: int) -> np.ndarray:
    """An order of its own, apart from those of the epochs."""
    return np.random.Generator(np.random.Philox(key=[seed, 2**63])).permutation(size)
