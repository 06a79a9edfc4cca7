"""What a source of images is, whatever stands behind it: rows that can be read in any order."""

import hashlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf


class Source(NamedTuple):
    """The examples of one split. Example i of N is row `rows[i]` of the store behind it (a folder, record files)."""

    name: str  # what the user wrote: 'folder:/my/images', 'digits', 'cifar10'
    split: str
    classes: tuple[str, ...] | None  # None: there are no labels
    rows: np.ndarray  # int64 [N]
    load: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]  # in a graph: row int64 [] -> file bytes, label int32 []
    row_labels: Callable[[], np.ndarray]  # labels of all rows, int32; may scan the files once
    row_name: Callable[[int], str]  # what a message calls a row
    fingerprint: str

    @property
    def size(self) -> int:
        """The number of examples."""
        return len(self.rows)

    @property
    def labels(self) -> np.ndarray | None:
        """Labels of the examples, int32 [N], or None."""
        return self.row_labels()[self.rows] if self.classes else None

    def ids(self) -> list[str]:
        """The name of every example: a path below the folder, or split#row of a tfds data set."""
        return [self.row_name(int(row)) for row in self.rows]

    def take(self, chosen: np.ndarray) -> "Source":
        """The subset of the given examples (indices into this source)."""
        mark = digest([self.fingerprint, *map(str, chosen)])
        return self._replace(rows=self.rows[chosen], fingerprint=mark)


def digest(parts: Iterable[str]) -> str:
    """A short hash of strings, the same on every machine."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part.encode() + b"\0")
    return sha.hexdigest()[:16]
