"""ImageNet's 1000 classes: their WordNet ids in the order of the labels, and which of them ImageNet-A and -R have.

`imagenet_classes.tsv` holds a line per class: the id, 'a' and 'r' where the class is one of the 200 of ImageNet-A
(arXiv:1907.07174) and of ImageNet-R (arXiv:2006.16241), the names of the synset in WordNet. Ids sorted are the labels.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

LINES = Path(__file__).with_name("imagenet_classes.tsv")


@cache
def _table() -> tuple[tuple[str, str, str], ...]:
    return tuple(tuple(line.split("\t")) for line in LINES.read_text().splitlines())


def wnids() -> tuple[str, ...]:
    """The WordNet ids of the 1000 classes; label i is the i-th."""
    return tuple(wnid for wnid, _, _ in _table())


def subset(mark: str) -> np.ndarray:
    """The labels, int64 [200], of the classes of ImageNet-A ('a') or -R ('r'); '' is all 1000."""
    return np.array([label for label, (_, marks, _) in enumerate(_table()) if mark in marks])


def outputs(classes: Sequence[str]) -> np.ndarray:
    """Which output of a model stands for each of ImageNet's classes.

    Args:
      classes: the names of the model's outputs: WordNet ids; or the numbers 0 to 999, if it has no others; or
        WordNet's names, all ('tench, Tinca tinca') or the first of each. The same name for two classes (crane) counts
        in the order of the labels.

    Returns:
      int64 [1000]; -1 for a class that the model does not have. Of the ways to read the names the one that finds most.
    """
    ways = [wnids(), [names for *_, names in _table()], [names.split(", ")[0] for *_, names in _table()]]
    numbers = [str(label) for label in range(len(_table()))]
    if sorted(numbers) == sorted(classes):  # a model of other 21,841 classes has numbers, too
        ways.append(numbers)
    return max((_found(classes, way) for way in ways), key=lambda found: (found >= 0).sum())


def _found(classes: Sequence[str], names: Iterable[str]) -> np.ndarray:
    places = defaultdict(list)
    for place, name in enumerate(classes):
        places[name.casefold()].append(place)
    return np.array([places[name.casefold()].pop(0) if places[name.casefold()] else -1 for name in names])
