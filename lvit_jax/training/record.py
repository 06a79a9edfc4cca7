"""config.json, a workdir's record of what it is; read and compared without jax."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from lvit_jax.errors import InputError
from lvit_jax.tree import flatten, matches

UNTRAINED = "untrained:"  # before a workdir: its architecture with fresh weights, the baseline of every analysis

# What may change between two starts of one run: nothing of it changes the mathematics.
FREE = (
    *("mesh/.*", "model/remat", "checkpoint/.*", "log/.*", "eval/.*"),
    *("data/threads", "data/max_broken", "init/demo_teacher"),
)

# Config keys that hold a path, and the hash that says what stands there.
CONTENT = {"init/encoder": "encoder", "init/teacher": "teacher", "data/source": "data", "data/data_dir": "data"}


def write_record(workdir: epath.PathLike, record: Mapping[str, Any]) -> None:
    """Writes workdir/config.json whole or not at all."""
    write_json(epath.Path(workdir) / "config.json", record)


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes a JSON file whole or not at all, and the folder it lies in."""
    write_whole(path, (json.dumps(value, indent=2) + "\n").encode())


def write_whole(path: epath.PathLike, content: bytes) -> None:
    """Writes a file whole or not at all, and the folder it lies in."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def read_record(workdir: epath.PathLike) -> dict[str, Any]:
    """The record of a run or an import.

    Raises:
      InputError: no such folder, or one without a readable config.json of ours.
    """
    path = epath.Path(workdir) / "config.json"
    try:
        record = json.loads(path.read_text())
    except OSError:
        raise InputError(f"{workdir} is not the folder of a run or an import: it has no config.json") from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    if not isinstance(record, dict) or record.get("kind") not in ("run", "import"):
        hint = f"a PyTorch folder is read with `lvit import_torch --file={workdir}`"
        raise InputError(f"{workdir} is not the folder of a run or an import; {hint}")
    return record


def compare_configs(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    free: Sequence[str] = FREE,
    old_hashes: Mapping[str, str] | None = None,
    new_hashes: Mapping[str, str] | None = None,
) -> list[str]:
    """Whether a run recorded with config `old` may go on with `new`.

    Args:
      old, new: configs as nested dicts; a key that one lacks is None there, as fields of later versions are.
      free: regexes on keys ('mesh/devices') that may differ.
      old_hashes, new_hashes: {'encoder', 'teacher', 'data': hash} of what the paths of `CONTENT` name: paths of
        equal content may differ, and one path with another content may not.

    Returns:
      One line for each difference that is allowed: 'log/every: 50 -> 10'.

    Raises:
      InputError: naming every key that may not differ.
    """
    hashes = (old_hashes or {}, new_hashes or {})
    before, after = (flatten(json.loads(json.dumps(config))) for config in (old, new))
    differing = [k for k in before | after if before.get(k) != after.get(k)]
    refused = [k for k in differing if not matches(free, k) and not _same_content(k, *hashes)]
    swapped = [k for k in CONTENT if k in before and k not in differing and _other_content(k, *hashes)]
    if refused or swapped:
        changes = [_change(k, before, after) for k in refused] + [f"{k} (another content)" for k in swapped]
        raise InputError(f"this workdir holds a run with another config: {'; '.join(changes)}")
    return [_change(k, before, after) for k in differing]


def _change(key: str, before: Mapping, after: Mapping) -> str:
    return f"{key}: {before.get(key)!r} -> {after.get(key)!r}"


def _same_content(key: str, old: Mapping[str, str], new: Mapping[str, str]) -> bool:
    kind = CONTENT.get(key)
    return kind in old and old[kind] == new.get(kind)


def _other_content(key: str, old: Mapping[str, str], new: Mapping[str, str]) -> bool:
    kind = CONTENT[key]
    return kind in old and kind in new and old[kind] != new[kind]
