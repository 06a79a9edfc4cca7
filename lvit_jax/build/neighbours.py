"""Features of whole sources, and the accuracy of nearest neighbours among them, on a mesh."""

from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np

from lvit_jax.evals.knn import make_bank
from lvit_jax.training import mesh as mesh_lib
from lvit_jax.types import Batch

QUERIES = 256  # that meet the bank at once, over all devices


def collect(see: Callable[[Batch], dict[str, jax.Array]], batches: Iterable[Batch]) -> dict[str, np.ndarray]:
    """What `see` returns for every example whose mask is not 0: {name: [N,...]}, whole on every process."""
    parts: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        found = mesh_lib.gather({**see(batch), "mask": batch["mask"]})
        readable = found.pop("mask") > 0
        for name, rows in found.items():
            parts.setdefault(name, []).append(rows[readable])
    return {name: np.concatenate(parts.pop(name)) for name in list(parts)}  # never all of them twice


def compare(
    knn: Callable, mesh: jax.sharding.Mesh, bank: tuple[np.ndarray, np.ndarray], queries: tuple[np.ndarray, np.ndarray]
) -> dict[int, dict[str, float]]:
    """What `knn` (`evals.knn.make_knn`) says of the queries: features [N,D] and labels [N] of both.

    Every device holds the bank and compares its share of the queries.
    """
    return knn(mesh_lib.put_whole(mesh, make_bank(*bank)), _query_batches(*queries, mesh))


def _query_batches(features: np.ndarray, labels: np.ndarray, mesh: jax.sharding.Mesh) -> Iterator[Batch]:
    """Padded and masked batches on the mesh; each process puts its own rows."""
    size = -(-QUERIES // mesh.size) * mesh.size
    me, all_of_us = mesh_lib.this_process().values()
    share = size // all_of_us
    for start in range(me * share, len(features) + me * share, size):
        rows = slice(start, start + share)
        part = {"feature": features[rows], "label": labels[rows]}
        lost = share - len(part["label"])
        part["mask"] = np.ones(share - lost, np.float32)
        yield mesh_lib.put(mesh, {k: np.pad(v, [(0, lost)] + [(0, 0)] * (v.ndim - 1)) for k, v in part.items()})
