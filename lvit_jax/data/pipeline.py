"""Batches as pure functions of (seed, step): indices -> bytes -> images, in parallel, in order, without iterator state.

tf.data does the work with threads of its own, one image per task. Each image runs inside a small nested dataset of
candidates, so that a broken file is an event of that place alone: the first readable candidate takes it.
"""

import logging
import os
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from lvit_jax.data import order
from lvit_jax.data.recipes import Example
from lvit_jax.data.source import Source
from lvit_jax.errors import InputError

CANDIDATES = 32  # tries for one place before the run gives up
STREAMS = 64  # of randomness per example: the recipes use the first few, candidate j the one at 16 + j
JUDGED_FROM = 100  # images read before `max_broken` is judged

log = logging.getLogger(__name__)
HostBatch = dict[str, np.ndarray]


def train_batches(
    source: Source,
    augment: Example,
    *,
    batch_size: int,
    seed: int,
    process: int = 0,
    processes: int = 1,
    max_broken: float = 0.1,
    threads: int | None = None,
) -> Callable[[int], Iterator[HostBatch]]:
    """The endless training batches of this process, from any step on.

    Args:
      source: what to read.
      augment: a recipe.
      batch_size: of all processes together; `processes` must divide it.
      seed: of order and augmentation.
      process, processes: which slice of every batch is read here.
      max_broken: the share of broken images among those read above which the run stops (judged from 100 on).
      threads: for decoding; None for one per core.

    Returns:
      batches(step) -> iterator of {"image": float32 [b,H,W,C], "label": int32 [b] (if there are labels), "index":
      int64 [b], the example whose place it is, "broken": int32 [b], 1 where another image stands in for it}.

    Raises:
      InputError: batch_size does not divide; while iterating: too many broken images.
    """
    share = local_size(batch_size, processes)

    def positions(step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        while True:
            start = step * batch_size + process * share
            yield order.places(seed, source.size, start, start + share)
            step += 1

    def batches(step: int) -> Iterator[HostBatch]:
        spec = (tf.TensorSpec([share], tf.int64), tf.TensorSpec([share], tf.int64))
        dataset = tf.data.Dataset.from_generator(lambda: positions(step), output_signature=spec).unbatch()
        dataset = _decoded(dataset, source, augment, seed, share, CANDIDATES, threads)
        watch = Watch(source, seed, max_broken)
        for image, label, index, epoch, tries in dataset.as_numpy_iterator():
            watch.see(index, epoch, tries)
            batch = {"image": image, "index": index, "broken": (tries > 0).astype(np.int32)}
            yield batch | ({"label": label} if source.classes else {})

    return batches


def eval_batches(
    source: Source,
    transform: Example,
    *,
    batch_size: int,
    process: int = 0,
    processes: int = 1,
    threads: int | None = None,
) -> Callable[[], Iterator[HostBatch]]:
    """Every example once, in order; all processes get the same number of batches.

    Returns:
      a function that starts a pass over batches as those of `train_batches` with "mask" float32 [b]: 0 for the padding
      of the last batch and for broken images, which are not replaced here ("broken" is 1 for them).
    """
    share = local_size(batch_size, processes)
    steps = -(-source.size // batch_size)
    index = np.concatenate(
        [np.arange(share, dtype=np.int64) + step * batch_size + process * share for step in range(steps)]
    )
    dataset = tf.data.Dataset.from_tensor_slices((index, np.zeros_like(index)))
    dataset = _decoded(dataset, source, transform, 0, share, 1, threads)
    watch = Watch(source, 0, max_broken=1.0)

    def batches() -> Iterator[HostBatch]:
        for image, label, index, epoch, tries in dataset.as_numpy_iterator():
            real = index < source.size
            broken = (tries > 0) & real
            watch.see(index[real], epoch[real], broken[real].astype(np.int64))
            mask = (real & ~broken).astype(np.float32)
            batch = {"image": image, "mask": mask, "index": index, "broken": broken.astype(np.int32)}
            yield batch | ({"label": label} if source.classes else {})

    return batches


def local_size(batch_size: int, processes: int) -> int:
    """The examples of a batch that one process reads."""
    if batch_size < 1 or batch_size % processes:
        below = batch_size // processes * processes
        raise InputError(
            f"batch size {batch_size} does not divide over {processes} processes; {below or processes} does"
        )
    return batch_size // processes


def example_seed(seed: int, epoch: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """The randomness of one example: int64 [2], apart by STREAMS from that of every other."""
    return tf.stack([tf.cast(seed << 32, tf.int64) + epoch, index * STREAMS])


def candidate(seed: tf.Tensor, index: tf.Tensor, size: int, number: tf.Tensor) -> tf.Tensor:
    """The index tried at place `index` after `number` broken ones: the index itself, then a drawn sequence."""
    key = seed + tf.stack([tf.zeros([], tf.int64), 16 + number])
    drawn = tf.random.stateless_uniform([], key, 0, size, tf.int64, alg="philox")
    return tf.where(number == 0, index, drawn)


def _decoded(dataset, source, recipe, seed, share, candidates, threads):
    """(index, epoch) -> batches of (image, label, index, epoch, tries); tries == candidates: none was readable."""
    rows = tf.constant(source.rows)

    def example(index, epoch):
        key = example_seed(seed, epoch, index)

        def attempt(number):
            data, label = source.load(rows[candidate(key, index, source.size, number)])
            return (recipe(data, key), label), number

        tried = tf.data.Dataset.range(candidates).map(attempt).ignore_errors(log_warning=False)
        blank = tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), tried.element_spec[0])
        none = tf.data.Dataset.from_tensors((blank, tf.constant(candidates, tf.int64)))
        (image, label), tries = tried.concatenate(none).take(1).get_single_element()
        return image, label, index, epoch, tries

    threads = threads or os.cpu_count()
    dataset = dataset.map(example, num_parallel_calls=threads, deterministic=True)
    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1  # images in parallel already: no threads inside an operation
    return dataset.batch(share, drop_remainder=True).prefetch(2).with_options(options)


class Watch:
    """Counts what was read, names each broken file once in the log, and stops the run when they are too many."""

    def __init__(self, source: Source, seed: int, max_broken: float):
        self.source, self.seed, self.max_broken = source, seed, max_broken
        self.read = self.bad = 0
        self.named: set[int] = set()

    def see(self, index: np.ndarray, epoch: np.ndarray, tries: np.ndarray) -> None:
        """Takes the places of a batch and how many candidates failed at each: int64 [b] each."""
        self.read += int(len(index) + tries.sum())
        self.bad += int(tries.sum())
        for i in np.flatnonzero(tries):
            self._name(index[i], epoch[i], min(int(tries[i]), CANDIDATES))
        hopeless = self.max_broken < 1 and (tries >= CANDIDATES).any()
        if hopeless or (self.read >= JUDGED_FROM and self.bad > self.max_broken * self.read):
            raise InputError(
                f"{self.bad} of {self.read} images of {self.source.name} are broken ({self.bad / self.read:.0%}), "
                f"more than data.max_broken={self.max_broken}; one is {self.source.row_name(min(self.named))!r}"
            )

    def _name(self, index, epoch, tries):
        key = example_seed(self.seed, tf.constant(epoch), tf.constant(index))
        for number in range(tries):
            chosen = candidate(key, tf.constant(index), self.source.size, tf.constant(number, tf.int64))
            row = int(self.source.rows[int(chosen)])
            if row not in self.named:
                self.named.add(row)
                log.warning("broken image in %s: %s", self.source.name, self.source.row_name(row))
