"""Whether a checkpoint is whole: the sizes of its files, noted when it was committed, and the errors of its readers."""

import json
import re
from collections.abc import Iterator

import jax
from etils import epath

SEAL = "sizes.json"

# How tensorstore begins where a file is broken, gone or too short; found by breaking each file of a checkpoint.
DAMAGE = r"(DATA_LOSS|NOT_FOUND|OUT_OF_RANGE): "


class Damaged(Exception):
    """A file of a checkpoint is gone, or not what its seal says."""


def seal(path: epath.Path) -> None:
    """Notes the sizes of a finished checkpoint's files: a truncated one is told by them, not by trying to load it."""
    if jax.process_index() == 0:
        sizes = {str(file.relative_to(path)): file.stat().length for file in _files(path)}
        part = path / f"{SEAL}.part"
        part.write_text(json.dumps(sizes))
        part.replace(path / SEAL)


def _files(place: epath.Path) -> Iterator[epath.Path]:
    for path in place.iterdir():
        yield from _files(path) if path.is_dir() else [path]


def check_seal(path: epath.Path) -> None:
    """Raises where a file of a checkpoint is gone or has another size (one killed before its seal goes unchecked)."""
    if not (path / SEAL).exists():
        return
    for name, size in json.loads((path / SEAL).read_text()).items():
        if (path / name).stat().length != size:
            raise Damaged(f"{name} is truncated")


def cause_of(error: BaseException) -> BaseException:
    """What went wrong in the first place: orbax wraps whatever its readers raise, up to MemoryError, in a KeyError."""
    return cause_of(error.__cause__) if error.__cause__ else error


def is_damage(cause: BaseException) -> bool:
    """Whether a cause is a broken checkpoint; no memory, no permission, a bug or another model are none."""
    if isinstance(cause, Damaged | FileNotFoundError | json.JSONDecodeError | UnicodeDecodeError):
        return True
    return isinstance(cause, ValueError) and bool(re.match(DAMAGE, str(cause)))
