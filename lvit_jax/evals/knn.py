"""Accuracy of k nearest neighbours on features: DINO's protocol (arXiv:2104.14294, eval_knn.py; recipes 7), exact."""

from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lvit_jax.errors import InputError, Stopped
from lvit_jax.types import Batch

KS = (10, 20, 100, 200)  # DINO's
TEMPERATURE = 0.07
BLOCK = 2**14  # rows of the bank that meet the queries at once: 16 MB of similarities for 256 queries


def make_bank(features: np.ndarray, labels: np.ndarray, block: int = BLOCK) -> dict[str, np.ndarray]:
    """Features of length 1 in blocks of one shape, for `make_knn`; the last block is padded, with mask 0.

    In float32: 4·N·D bytes, 0.98 GB for ImageNet's 1,281,167 images and a width of 192, on every device.

    Args:
      features: [N,D].
      labels: [N], class numbers.

    Returns:
      {"feature": float32 [S,R,D], "label": int32 [S,R], "mask": float32 [S,R]}.
    """
    count = -(-len(features) // block)
    rows = -(-len(features) // count)
    lost = count * rows - len(features)
    norms = np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
    parts = {"feature": (features / norms).astype(np.float32), "label": labels.astype(np.int32)}
    parts["mask"] = np.ones(len(features), np.float32)
    padded = {name: np.pad(part, [(0, lost)] + [(0, 0)] * (part.ndim - 1)) for name, part in parts.items()}
    return {name: part.reshape(count, rows, *part.shape[1:]) for name, part in padded.items()}


def neighbours(bank: Batch, features: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Cosine similarities and labels of the k nearest rows of a bank, nearest first: float32 and int32 [B,k].

    Of two rows that are equally near, the one that stands first in the bank is nearer.

    Args:
      bank: of `make_bank`, with at least k rows.
      features: [B,D], of any length.
    """
    norms = jnp.linalg.norm(features, axis=1, keepdims=True)
    queries = features / jnp.maximum(norms, 1e-12)

    def merge(found, block):
        near, labels = found
        here = jnp.einsum("bd,nd->bn", queries, block["feature"], precision="highest")
        here = jnp.where(block["mask"] > 0, here, -jnp.inf)
        # top_k takes the first of equals: what was found in earlier blocks stands first.
        near, place = jax.lax.top_k(jnp.concatenate([near, here], axis=1), k)
        old = jnp.take_along_axis(labels, jnp.minimum(place, k - 1), axis=1)
        return (near, jnp.where(place < k, old, block["label"][jnp.maximum(place - k, 0)])), None

    nothing = jnp.full((len(features), k), -jnp.inf), jnp.zeros((len(features), k), jnp.int32)
    return jax.lax.scan(merge, nothing, bank)[0]


def votes(near: jax.Array, labels: jax.Array, classes: int) -> jax.Array:
    """What each class gathers, exp(similarity / 0.07) from each of its neighbours: [B,k] twice -> float32 [B,C].

    The prediction is its argmax: of classes with equal votes, the one of the lowest number.
    """
    given = jnp.exp(near / TEMPERATURE)[:, :, None]
    return jnp.where(labels[:, :, None] == jnp.arange(classes), given, 0.0).sum(axis=1)


def make_knn(ks: Sequence[int], classes: int) -> Callable[[Batch, Iterable[Batch]], dict[int, dict[str, float]]]:
    """(bank, queries) -> {k: {'top1', 'top5' in percent}}, exact to the last example.

    The bank is that of `make_bank`, queries are batches of "feature" [B,D], "label" [B] and "mask" [B]: 0 for padding.
    A class without a neighbour is not among the five.

    Raises, when called:
      InputError: a k below 1, or larger than the bank.
    """

    @jax.jit
    def count(bank: Batch, batch: Batch) -> dict[str, jax.Array]:
        near, labels = neighbours(bank, batch["feature"], max(ks))
        tops = [_tops(votes(near[:, :k], labels[:, :k], classes), batch["label"]) for k in ks]
        rows = {"top1": jnp.stack([top1 for top1, _ in tops]), "top5": jnp.stack([top5 for _, top5 in tops])}
        rows["examples"] = jnp.ones_like(batch["mask"], bool)
        return {name: jnp.where(batch["mask"] > 0, row, False).sum(axis=-1) for name, row in rows.items()}

    def knn(bank: Batch, batches: Iterable[Batch]) -> dict[int, dict[str, float]]:
        check_ks(ks, int(bank["mask"].sum()))
        total: dict[str, jax.Array] = {}
        for batch in batches:
            counts = count(bank, batch)
            total = jax.tree.map(jnp.add, total, counts) if total else counts
        sums = jax.device_get(total)
        if not sums or not sums["examples"]:
            raise Stopped("nothing to evaluate: no image could be read")
        shares = {name: 100 * sums[name] / sums["examples"] for name in ("top1", "top5")}
        return {k: {name: float(share[i]) for name, share in shares.items()} for i, k in enumerate(ks)}

    return knn


def check_ks(ks: Sequence[int], rows: int) -> None:
    """Raises InputError for a k below 1, or larger than a bank of so many rows."""
    for k in ks:
        if k < 1:
            raise InputError(f"k={k}; the least is 1")
        if k > rows:
            raise InputError(f"k={k} is larger than the bank of {rows} images; the largest k is {rows}")


def _tops(gathered: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether the true class comes first, and whether it is among the first five: votes [B,C] -> bool [B] twice."""
    number, label = jnp.arange(gathered.shape[1]), label[:, None]
    true = jnp.take_along_axis(gathered, label, axis=1)
    rank = jnp.sum((gathered > true) | ((gathered == true) & (number < label)), axis=1)
    near = true[:, 0] > 0  # not so where there is no neighbour, or where features are no numbers
    return near & (rank < 1), near & (rank < 5)
