"""A classifier on other images than its own: the passes of a benchmark, measured one after another by one program."""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lvit_jax.build.data import device_batches
from lvit_jax.build.trained import Trained
from lvit_jax.data.recipes import Example
from lvit_jax.data.source import Source
from lvit_jax.errors import Stopped
from lvit_jax.evals.robustness import make_count
from lvit_jax.training import mesh as mesh_lib
from lvit_jax.training.report import clock, say
from lvit_jax.types import Batch

EVERY = 10.0  # seconds between two lines of progress within a pass


class Pass(NamedTuple):
    """One source to be evaluated."""

    name: str  # what progress calls it
    source: Source
    transform: Example
    answers: np.ndarray  # int [L,K]: the outputs that are right answers to each label of the source; -1 is none
    allowed: np.ndarray  # bool [C]: the outputs that may be answered


class Counts(NamedTuple):
    """Of one pass."""

    right: int
    examples: int
    unlabelled: int  # left out: without a right answer

    @property
    def top1(self) -> float:
        """In percent."""
        return 100 * self.right / self.examples


def measure(trained: Trained, passes: Sequence[Pass], batch_size: int | None) -> list[Counts]:
    """Evaluates every pass, exact to the last image; tells on stderr how far it is and how long it will take.

    Args: batch_size: None for the run's own.

    Raises: InputError: a batch size that the devices do not divide, before anything is compiled. Stopped: a pass
    without a readable, labelled image.
    """
    mesh = mesh_lib.make_mesh()
    size = trained.config["eval"]["batch_size"] if batch_size is None else batch_size
    mesh_lib.check_batch(size, mesh)
    mesh_lib.check_alike({"the images": [each.source.fingerprint for each in passes]})
    count = make_count(trained.objective)
    progress = Progress([each.source.size for each in passes])
    # Tables of one shape: one program serves all passes.
    shape = np.max([each.answers.shape for each in passes], axis=0)
    results = []
    for each in passes:
        tables = mesh_lib.put_whole(mesh, (_filled(each.answers, shape), each.allowed))
        batches = device_batches(each.source, each.transform, size, mesh)
        total = dict.fromkeys(Counts._fields, 0)
        for batch in progress.over(each.name, batches(), size):
            total = jax.tree.map(jnp.add, total, count(trained.params, trained.state, batch, *tables))
        counts = Counts(**{name: int(value) for name, value in jax.device_get(total).items()})
        if not counts.examples:
            raise Stopped(f"nothing to evaluate in {each.name}: no image with a label could be read")
        progress.done(each.name, f"top-1 {counts.top1:.2f} %, error {100 - counts.top1:.2f} %")
        results.append(counts)
    return results


def _filled(answers: np.ndarray, shape: np.ndarray) -> np.ndarray:
    rows, columns = shape - answers.shape
    return np.pad(answers.astype(np.int32), ((0, rows), (0, columns)), constant_values=-1)


class Progress:
    """Says on stderr where the passes are."""

    def __init__(self, sizes: Sequence[int]):
        """Args: sizes: images in each pass."""
        self._sizes, self._images, self._passes = sizes, 0, 0
        self._born = self._said = time.perf_counter()

    def over(self, name: str, batches: Iterator[Batch], size: int) -> Iterator[Batch]:
        """The batches of a pass, counted as they are taken."""
        before = sum(self._sizes[: self._passes])
        for number, batch in enumerate(batches):
            self._images = before + number * size
            if self._images and time.perf_counter() - self._said > EVERY:  # before the first, nobody knows the rate
                self._say(name, f"{number * size} of {self._sizes[self._passes]} images")
            yield batch

    def done(self, name: str, result: str) -> None:
        """A pass has ended."""
        self._passes += 1
        self._images = sum(self._sizes[: self._passes])
        self._say(name, result)

    def _say(self, name: str, text: str) -> None:
        self._said = time.perf_counter()
        left = (self._said - self._born) * (sum(self._sizes) / max(self._images, 1) - 1)
        say(f"{name}: {text}  {self._passes}/{len(self._sizes)} passes  left {clock(left)}")
