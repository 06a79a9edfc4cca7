"""tfds data sets by random access: ArrayRecord as it is, TFRecord through an index of record offsets made once."""

import contextlib
import hashlib
import importlib
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from lvit_jax.data.source import Source, digest
from lvit_jax.errors import InputError, nearest, unknown

DEFAULT_DIR = "~/tensorflow_datasets"
# Data sets that the catalogue of tfds lacks; prepared where they are first asked for.
OURS = {
    "digits": "lvit_jax.data.builders.digits:Digits",
    "fgvc_aircraft": "lvit_jax.data.builders.fgvc_aircraft:FgvcAircraft",
    "imagenet_c": "lvit_jax.data.builders.imagenet_c:ImagenetC",
}
IN_MEMORY = 64 << 20  # bytes: smaller splits are read once and kept, which spares a call of Python per image

log = logging.getLogger(__name__)


class Records(NamedTuple):
    """Serialised examples of one split: how many, and how to read some of them (thread-safe)."""

    size: int
    read: Callable[[Sequence[int]], Sequence[bytes]]


def open_tfds(
    name: str, split: str, data_dir: str | None, *, classes: tuple[str, ...] | None = None, labels: bool = True
) -> Source:
    """Opens a split of a prepared tfds data set, or of one of `OURS`, which is prepared here if it is not yet.

    Args:
      name: 'imagenet2012', 'cifar10', 'name/config', 'name:version', ... or a name of `OURS`.
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


def is_there(name: str, data_dir: str | None) -> bool:
    """Whether the data set lies in `data_dir`; one of `OURS` is prepared here if its archive is in its place."""
    try:
        open_builder(name, data_dir)
    except InputError:
        return False
    return True


def open_builder(name: str, data_dir: str | None):
    """The tfds builder of prepared files; never touches the network."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.utils import gcs_utils

    gcs_utils._is_gcs_disabled = True  # tfds would ask Google's bucket for metadata, which stalls without a network
    data_dir = os.path.expanduser(data_dir or DEFAULT_DIR)
    if name.split("/")[0] in OURS:
        return _prepare(name, data_dir)
    try:
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
    except Exception:  # tfds raises a dozen types here; to the user they all say: not there
        raise _absent(name, data_dir) from None


def _absent(name: str, data_dir: str) -> InputError:
    import tensorflow_datasets as tfds

    base = name.split("/")[0].split(":")[0]
    known = tfds.list_builders(with_community_datasets=False)
    if base in known:
        return InputError(f"data set {name!r} is not prepared in {data_dir}; {build_command(name, data_dir)}")
    hint = nearest(name, [*OURS, *known])
    return InputError(
        f"unknown data set {name!r}{hint}; valid: {', '.join(OURS)}, folder:PATH, or a name of tensorflow_datasets"
    )


def build_command(name: str, data_dir: str) -> str:
    """The command that prepares a data set of tfds."""
    return f"prepare it with `tfds build {name} --file_format=array_record --data_dir={data_dir}`"


def _prepare(name: str, data_dir: str):
    """Prepares one of `OURS` once; a lock keeps processes that start together from doing it twice."""
    import fcntl

    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.extractor import ExtractError

    base, _, part = name.partition("/")
    module, kind = OURS[base].split(":")
    make = getattr(importlib.import_module(module), kind)
    if part not in (parts := [config.name for config in make.BUILDER_CONFIGS] or [""]):
        raise unknown(f"part of {base!r}", part, parts)
    try:
        os.makedirs(data_dir, exist_ok=True)
        # tfds would announce itself on stdout, where figures go.
        with contextlib.redirect_stdout(sys.stderr), open(os.path.join(data_dir, f".{base}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            builder = make(config=part or None, data_dir=data_dir, file_format="array_record")
            if name == "digits":
                tfds.disable_progress_bar()  # it takes a second
            elif not builder.is_prepared():
                _announce(builder, os.path.join(data_dir, "downloads", "manual"))
            builder.download_and_prepare()
    except (OSError, ExtractError) as error:
        message = f"cannot prepare {name} in data.data_dir={data_dir!r}: {' '.join(str(error).split())}"
        raise InputError(message) from None
    return builder


def _announce(builder, folder: str) -> None:
    """Says what is going to take its time; raises where there is no archive to prepare the data set from."""
    if not os.path.exists(os.path.join(folder, builder.archive)):
        where = f"put {builder.archive} (from {builder.home}) into {folder}"
        raise InputError(f"data set {builder.name!r} is not prepared; {where}, and the next command prepares it")
    log.info("preparing %s from %s, once", builder.name, os.path.join(folder, builder.archive))


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
