"""Batches as pure functions of (seed, step): indices -> bytes -> images, in parallel, in order, without iterator state.

tf.data does the work with threads of its own, one image per task. A broken image leaves a hole in its stream; the hole
is filled here, at its place, so that no other place moves and the common case pays nothing for it.
"""

import logging
import os
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from lvit_jax.data import order
from lvit_jax.data.recipes import Example
from lvit_jax.data.source import Source
from lvit_jax.errors import InputError, Stopped

CANDIDATES = 32  # tries for one place before the run gives up
STREAMS = 64  # of randomness per example, more than any recipe uses
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
      batch_size: of all processes together; `processes` must divide it.
      seed: of order and augmentation.
      process, processes: which slice of every batch is read here.
      max_broken: the share of broken images among those read above which the run stops (judged from 100 on).
      threads: for decoding; None for one per core.

    Returns:
      batches(step) -> iterator of {"image": float32 [b,H,W,C], "label": int32 [b] (if there are labels), "index":
      int64 [b], the example whose place it is, "broken": int32 [b], 1 where another image stands in for it}.

    Raises: InputError: batch_size does not divide. Stopped, while iterating: too many broken images.
    """
    share = local_size(batch_size, processes)
    load = _loader(source, augment, seed)

    def places(step: int) -> tuple[np.ndarray, np.ndarray]:
        start = step * batch_size + process * share
        return order.places(seed, source.size, start, start + share)

    def batches(step: int) -> Iterator[HostBatch]:
        broken = Broken(source, load, seed, max_broken)
        feed = None
        while True:
            if feed is None or (feed.ended and step >= feed.given):
                feed = Feed(places, step, ahead=8 + 2 * (threads or os.cpu_count()) // share)
                stream = Stream(_decoded(feed.dataset(share), load, share, threads))
            feed.taken = step
            index, epoch = places(step)
            images, labels, missing = stream.take(index, epoch)
            for hole in np.flatnonzero(missing):
                images[hole], labels[hole] = broken.replace(index[hole], epoch[hole])
            broken.judge(share)
            yield _batch(source, images, labels, index, missing)
            step += 1

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
    steps = range(process * share, source.size + process * share, batch_size)
    places = np.concatenate([np.arange(start, start + share, dtype=np.int64) for start in steps])
    load = _loader(source, transform, 0)
    inside = places[places < source.size]
    dataset = tf.data.Dataset.from_tensor_slices((inside, np.zeros_like(inside)))
    dataset = _decoded(dataset, load, share, threads)
    broken = Broken(source, load, 0, max_broken=1.0)

    def batches() -> Iterator[HostBatch]:
        stream = Stream(dataset)
        for index in places.reshape(-1, share):
            images, labels, missing = stream.take(index, np.zeros_like(index))
            lost = missing & (index < source.size)
            for hole in np.flatnonzero(lost):
                broken.name(index[hole])
            batch = _batch(source, images, labels, index, lost)
            yield batch | {"mask": (~missing).astype(np.float32)}

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


def _loader(source: Source, recipe: Example, seed: int) -> Callable:
    """load(place, index, epoch) -> (image, label): the example `index`, with the randomness of `place` in an epoch."""
    rows = tf.constant(source.rows)

    def load(place, index, epoch):
        data, label = source.load(rows[index])
        return recipe(data, example_seed(seed, epoch, place)), label

    return load


def _decoded(dataset: tf.data.Dataset, load: Callable, share: int, threads: int | None) -> tf.data.Dataset:
    """(index, epoch) -> batches of (index, epoch, image, label), in order; broken images are left out."""
    threads = threads or os.cpu_count()
    dataset = dataset.map(
        lambda index, epoch: (index, epoch, *load(index, index, epoch)),
        num_parallel_calls=threads,
        deterministic=True,
    )
    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1  # images in parallel already: no threads inside an operation
    return dataset.ignore_errors(log_warning=False).batch(share).prefetch(2).with_options(options)


def _batch(source, images, labels, index, broken):
    batch = {"image": images, "index": index, "broken": broken.astype(np.int32)}
    return batch | ({"label": labels} if source.classes else {})


class Feed:
    """Gives the places of one step after another to the decoding threads, a bounded number of steps ahead.

    Broken images leave no trace in the stream: without the bound a folder full of them would be read for ever. At the
    bound the feed ends, and `batches` opens the next one where that left off.
    """

    def __init__(self, places: Callable[[int], tuple[np.ndarray, np.ndarray]], step: int, ahead: int):
        self.places, self.ahead = places, ahead
        self.taken = self.given = step
        self.ended = False

    def dataset(self, share: int) -> tf.data.Dataset:
        """(index, epoch) of one place after another."""
        spec = (tf.TensorSpec([share], tf.int64), tf.TensorSpec([share], tf.int64))
        return tf.data.Dataset.from_generator(self._give, output_signature=spec).unbatch()

    def _give(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        while self.given - self.taken < self.ahead:
            self.given += 1
            yield self.places(self.given - 1)
        self.ended = True


class Stream:
    """Cuts the stream of readable examples into batches by place, and says which places are missing."""

    def __init__(self, dataset: tf.data.Dataset):
        self.spec = dataset.element_spec
        self.parts = dataset.as_numpy_iterator()
        self.held: tuple[np.ndarray, ...] | None = None  # index, epoch, images, labels: read and not yet taken

    def take(self, index: np.ndarray, epoch: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images, labels and what is missing (bool [b]) of the next places: int64 [b] each. Zeros where missing."""
        held = self.held or self._next()
        if np.array_equal(held[0], index) and np.array_equal(held[1], epoch):
            self.held = None
            return held[2], held[3], np.zeros(len(index), bool)
        outputs = [np.zeros([len(index), *part.shape[1:]], part.dtype) for part in held[2:]]
        missing = np.ones(len(index), bool)
        at = 0
        for place in range(len(index)):
            if at and at == len(held[0]):
                held, at = self._next(), 0
            if at < len(held[0]) and (held[0][at], held[1][at]) == (index[place], epoch[place]):
                for output, part in zip(outputs, held[2:], strict=True):
                    output[place] = part[at]
                missing[place] = False
                at += 1
        self.held = tuple(part[at:] for part in held) if at < len(held[0]) else None
        return *outputs, missing

    def _next(self) -> tuple[np.ndarray, ...]:
        empty = tuple(np.zeros([0, *spec.shape[1:]], spec.dtype.as_numpy_dtype) for spec in self.spec)
        return next(self.parts, empty)


class Broken:
    """Finds replacements, names each broken file once in the log, and stops the run when they are too many."""

    def __init__(self, source: Source, load: Callable, seed: int, max_broken: float):
        self.source, self.seed, self.max_broken = source, seed, max_broken
        self.load = tf.function(load)
        self.read = self.bad = 0
        self.named: set[int] = set()

    def replace(self, index: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The first readable image of the sequence drawn from (seed, epoch, index), with its own label."""
        self.name(index)
        rng = np.random.Generator(np.random.Philox(key=[self.seed, (epoch << 40) + index]))
        for candidate in rng.integers(0, self.source.size, CANDIDATES):
            self.read += 1
            try:
                image, label = self.load(*map(tf.constant, (index, candidate, epoch)))
                return image.numpy(), label.numpy()
            except tf.errors.OpError:
                self.name(candidate)
        raise Stopped(f"{CANDIDATES} images drawn from {self.source.name} are all broken; {self._example()}")

    def judge(self, count: int) -> None:
        """Counts so many places more and stops the run if the share of broken images among those read is too high."""
        self.read += count
        if self.read >= JUDGED_FROM and self.bad > self.max_broken * self.read:
            share = f"{self.bad} of {self.read} images read from {self.source.name} are broken"
            raise Stopped(
                f"{share} ({self.bad / self.read:.0%}), more than data.max_broken={self.max_broken}; {self._example()}"
            )

    def name(self, index: int) -> None:
        """Counts a broken image; its file is named in the log the first time."""
        self.bad += 1
        row = int(self.source.rows[index])
        if row not in self.named:
            self.named.add(row)
            log.warning("broken image in %s: %s", self.source.name, self.source.row_name(row))

    def _example(self) -> str:
        return f"one is {self.source.row_name(min(self.named))!r}"
