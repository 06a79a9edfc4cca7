"""tfds data sets by random access: ArrayRecord as it is, TFRecord through an index of record offsets made once."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from lvit_jax.data.prepared import open_builder
from lvit_jax.data.source import Source, digest
from lvit_jax.errors import InputError, unknown

IN_MEMORY = 64 << 20  # bytes: smaller splits are read once and kept, which spares a call of Python per image


class Records(NamedTuple):
    """Serialised examples of one split: how many, and how to read some of them (thread-safe)."""

    size: int
    read: Callable[[Sequence[int]], Sequence[bytes]]


def open_tfds(
    name: str, split: str, data_dir: str | None, *, classes: tuple[str, ...] | None = None, labels: bool = True
) -> Source:
    """Opens a split of a prepared tfds data set, or of one of ours, which is prepared here if it is not yet.

    Args:
      name: 'imagenet2012', 'cifar10', 'name/config', 'name:version', ... or a name of `prepared.OURS`.
      split: a split of it, a slice of one or several of these, as tfds writes it ('train[:10%]', 'train+validation').
      data_dir: where tfds keeps its data; None for ~/tensorflow_datasets.
      classes: class names that the labels are expected to have; None for the data set's own.
      labels: whether labels are needed.

    Raises:
      InputError: unknown or unprepared data set, unknown split, no image or no label among its features.
    """
    builder = open_builder(name, data_dir)
    spans = _spans(builder, name, split)
    parts = list(dict.fromkeys(part for part, _, _ in spans))  # their records one after another are the store
    image, label, found = _features(builder, name)
    if labels and not found:
        raise InputError(f"labels are needed, but data set {name!r} has no class label")
    if labels and classes and tuple(classes) != found:
        raise InputError(f"the classes of {name!r} ({len(found)}) are not the expected ones ({len(classes)})")
    records = open_records(builder, parts)
    starts = dict(zip(parts, np.cumsum([0, *(builder.info.splits[part].num_examples for part in parts)]), strict=False))
    rows = np.concatenate([starts[part] + np.arange(start, stop) for part, start, stop in spans])

    def row_name(row: int) -> str:
        part = next(part for part in reversed(parts) if starts[part] <= row)
        return f"{name}/{part}#{row - starts[part]}"

    return Source(
        name=name,
        split=split,
        classes=found,
        rows=rows,
        load=_loader(records, files(builder, parts), image, label),
        row_labels=lambda: _labels(records, files(builder, parts), label),
        row_name=row_name,
        fingerprint=digest([builder.info.full_name, split, str(records.size)]),
    )


def split_names(name: str, data_dir: str | None) -> list[str]:
    """The splits of a prepared data set."""
    return sorted(open_builder(name, data_dir).info.splits)


def _spans(builder, name: str, split: str) -> list[tuple[str, int, int]]:
    """Splits and slices as [(split, first row, last row + 1)]."""
    import tensorflow_datasets as tfds

    sizes = {key: info.num_examples for key, info in builder.info.splits.items()}
    bases = split_parts(split)
    if strange := next((base for base in bases if base not in sizes), None):
        raise unknown(f"split of {name!r}", strange, sizes)
    base = max(bases, key=len)
    try:
        spans = tfds.core.ReadInstruction.from_spec(split).to_absolute(builder.info.splits)
    except (ValueError, AssertionError):
        raise InputError(f"cannot read split {split!r} of {name!r}: write {base}[:10%] or {base}[100:200]") from None
    return [(s.splitname, s.from_ or 0, sizes[s.splitname] if s.to is None else s.to) for s in spans]


def split_parts(split: str) -> list[str]:
    """The splits that 'train[:10%]+validation' names: ['train', 'validation']."""
    return [part.split("[")[0].strip() for part in split.split("+")]


def _features(builder, name: str) -> tuple[str, str | None, tuple[str, ...] | None]:
    """Names of the image and label features, and the class names (None where there is no label)."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    image = next((key for key, f in features.items() if isinstance(f, tfds.features.Image)), None)
    label = next((key for key, f in features.items() if isinstance(f, tfds.features.ClassLabel)), None)
    if image is None:
        raise InputError(f"data set {name!r} has no image among its features ({', '.join(features)})")
    return image, label, tuple(features[label].names) if label else None


def files(builder, splits: Sequence[str]) -> list[str]:
    """The record files of some splits, in order."""
    return [str(path) for split in splits for path in builder.info.splits[split].filepaths]


def open_records(builder, splits: Sequence[str]) -> Records:
    """Random access to the records of some splits, one after another, whatever their file format."""
    paths = files(builder, splits)
    if builder.info.file_format.value == "array_record":
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        source = ArrayRecordDataSource(paths)
        records = Records(len(source), source.__getitems__)  # far faster than one by one
    elif builder.info.file_format.value == "tfrecord":
        records = _tfrecords(paths)
    else:
        raise InputError(f"{builder.info.full_name} is stored as {builder.info.file_format.value}; use array_record")
    return records


def _tfrecords(paths: list[str]) -> Records:
    file, offset, length = tfrecord_index(paths)
    handles = [os.open(path, os.O_RDONLY) for path in paths]
    return Records(len(file), lambda rows: [os.pread(handles[file[row]], length[row], offset[row]) for row in rows])


def tfrecord_index(paths: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """File number, offset and length (int64 [N]) of every record; made once and cached beside the files."""
    cached = cache_file(paths, "offsets")
    if not cached.exists():
        save_arrays(cached, index=np.concatenate([_scan(i, path) for i, path in enumerate(paths)]))
    return tuple(np.load(cached)["index"].T)


def _scan(number: int, path: str) -> np.ndarray:
    """Rows (file, offset, length) of one file: a record is length u64, crc u32, data, crc u32."""
    rows, at, end = [], 0, os.path.getsize(path)
    with open(path, "rb") as file:
        while at < end:
            file.seek(at)
            length = int.from_bytes(file.read(8), "little")
            if at + 16 + length > end:
                raise InputError(f"{path} is cut off at byte {at}: prepare the data set again")
            rows.append((number, at + 12, length))
            at += 16 + length
    return np.array(rows, np.int64).reshape(-1, 3)


def cache_file(paths: list[str], what: str) -> Path:
    """Where something derived from record files is kept: beside them, else under ~/.cache/lvit_jax.

    The name depends on sizes and times of the files, so that a new preparation never meets an old index.
    """
    marks = [(os.path.basename(p), os.path.getsize(p), os.stat(p).st_mtime_ns) for p in paths]
    mark = hashlib.sha256(json.dumps(marks).encode()).hexdigest()[:16]
    beside = Path(paths[0]).parent / ".lvit_index" / f"{what}-{mark}.npz"
    if beside.exists() or os.access(Path(paths[0]).parent, os.W_OK):
        return beside
    return Path(os.path.expanduser("~/.cache/lvit_jax")) / beside.name


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Writes an .npz in one move: another process sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.stem}.{os.getpid()}.npz")
    np.savez(scratch, **arrays)
    os.replace(scratch, path)


def _parse(record: tf.Tensor, image: str, label: str | None) -> tuple[tf.Tensor, tf.Tensor]:
    """A serialised tf.Example -> bytes of the image, int32 label (0 where there is none)."""
    spec = {image: tf.io.FixedLenFeature([], tf.string)}
    if label:
        spec[label] = tf.io.FixedLenFeature([], tf.int64)
    parsed = tf.io.parse_single_example(record, spec)
    return parsed[image], tf.cast(parsed[label], tf.int32) if label else tf.zeros([], tf.int32)


def _loader(records: Records, paths: Sequence[str], image: str, label: str | None) -> Callable:
    """row -> (bytes, label) in a graph: from memory for small splits, else through one read in Python."""
    if sum(os.path.getsize(path) for path in paths) <= IN_MEMORY:
        held = tf.constant(list(records.read(range(records.size))))
        return lambda row: _parse(held[row], image, label)

    def load(row):
        record = tf.numpy_function(lambda row: records.read([row])[0], [row], tf.string)
        return _parse(tf.ensure_shape(record, []), image, label)

    return load


def _labels(records: Records, paths: list[str], label: str) -> np.ndarray:
    """Labels of all rows, int32 [N]: needs one pass over the files, made once and cached."""
    cached = cache_file(paths, "labels")
    if not cached.exists():
        spec = {label: tf.io.FixedLenFeature([], tf.int64)}
        spans = [range(start, min(start + 1024, records.size)) for start in range(0, records.size, 1024)]
        parsed = [tf.io.parse_example(list(records.read(span)), spec)[label].numpy() for span in spans]
        save_arrays(cached, labels=np.concatenate(parsed).astype(np.int32))
    return np.load(cached)["labels"]
