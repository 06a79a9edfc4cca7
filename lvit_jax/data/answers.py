"""Data sets whose images have a set of right answers each (ReaL labels), by random access."""

import numpy as np
import tensorflow as tf

from lvit_jax.data.prepared import open_builder
from lvit_jax.data.records import Records, cache_file, files, open_records, open_tfds, save_arrays, split_parts
from lvit_jax.data.source import Source
from lvit_jax.errors import InputError

BLOCK = 1024  # records parsed at once


def open_answers(name: str, split: str, data_dir: str | None, feature: str) -> tuple[Source, np.ndarray]:
    """A split of a prepared tfds data set where an example's label is its row in a table of answers.

    Args:
      feature: the sequence of class labels that holds an example's answers; it may be empty.

    Returns:
      the source, and int32 [N,K]: the answers of each row, filled up with -1.

    Raises:
      InputError: as `open_tfds`; or there is no such feature.
    """
    source = open_tfds(name, split, data_dir)
    builder, parts = open_builder(name, data_dir), list(dict.fromkeys(split_parts(split)))
    if feature not in builder.info.features:
        raise InputError(f"data set {name!r} has no feature {feature!r}, which holds its answers")
    records = open_records(builder, parts)
    cached = cache_file(files(builder, parts), feature)
    if not cached.exists():
        save_arrays(cached, answers=_answers(records, feature))
    own = source._replace(
        load=lambda row: (source.load(row)[0], tf.cast(row, tf.int32)),
        row_labels=lambda: np.arange(records.size, dtype=np.int32),
    )
    return own, np.load(cached)["answers"]


def _answers(records: Records, feature: str) -> np.ndarray:
    """One pass over the files."""
    spec = {feature: tf.io.RaggedFeature(tf.int64)}
    blocks = []
    for start in range(0, records.size, BLOCK):
        rows = records.read(range(start, min(start + BLOCK, records.size)))
        blocks += tf.io.parse_example(list(rows), spec)[feature].to_list()
    table = np.full((len(blocks), max(1, *map(len, blocks))), -1, np.int32)
    for row, labels in enumerate(blocks):
        table[row, : len(labels)] = labels
    return table
