"""Tables of features as files: parts (NPZ), and all parts as one Parquet or NPZ file, written whole or not at all."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from lvit_jax.training.record import write_whole

Table = Mapping[str, np.ndarray]  # "name" str [N], "label" int32 [N] (where there are labels), "feature" float32 [N,D]


def write_part(path: epath.Path, table: Table) -> None:
    """A table as an NPZ file."""
    buffer = io.BytesIO()
    np.savez(buffer, **table)
    write_whole(path, buffer.getvalue())


def read_part(path: epath.Path) -> dict[str, np.ndarray]:
    """What `write_part` wrote."""
    with np.load(io.BytesIO(path.read_bytes())) as table:
        return dict(table)


def merge_npz(parts: Sequence[epath.Path], out: epath.Path, classes: Sequence[str] | None, about: Mapping) -> None:
    """All parts as arrays of one NPZ file, with "classes" str [C] and "about" (JSON); they pass through memory."""
    tables = [read_part(path) for path in parts]
    whole = {key: np.concatenate([table[key] for table in tables]) for key in tables[0]}
    named = {"classes": np.array(classes)} if classes else {}
    write_part(out, whole | named | {"about": np.array(json.dumps(about))})


def merge_parquet(parts: Sequence[epath.Path], out: epath.Path, classes: Sequence[str] | None, about: Mapping) -> None:
    """All parts as row groups of one Parquet file, one at a time, with a column "class" and `about` in its metadata."""
    import pyarrow.parquet  # half a second

    part = out.with_name(out.name + ".part")
    groups = _groups(parts, classes, {"lvit": json.dumps(about)})
    first = next(groups)
    with part.open("wb") as file, pyarrow.parquet.ParquetWriter(file, first.schema) as writer:
        writer.write_table(first)
        for group in groups:
            writer.write_table(group)
    part.replace(out)


def _groups(parts: Sequence[epath.Path], classes: Sequence[str] | None, about: Mapping) -> Iterator[Any]:
    import pyarrow as pa

    for path in parts:
        table = read_part(path)
        feature = table.pop("feature")
        columns = {key: pa.array(values) for key, values in table.items()}
        if classes:
            columns["class"] = pa.array(np.array(classes)[table["label"]])
        flat = pa.array(feature.reshape(-1), pa.float32())
        columns["feature"] = pa.FixedSizeListArray.from_arrays(flat, feature.shape[1])
        yield pa.table(columns).replace_schema_metadata(about)


MERGE = {".parquet": merge_parquet, ".npz": merge_npz}  # by the suffix of the file
