"""The mapping file of `--source=folder:PATH`: which corruption a folder holds. Read without jax."""

import json
from typing import Any, NamedTuple

from lvit_jax.errors import InputError, nearest


class Mapping(NamedTuple):
    """What the folders below PATH are."""

    folders: dict[str, tuple[str, int]]  # folder below PATH -> corruption, severity
    classes: dict[str, str]  # name of a class folder -> class of the model, where they differ


def read_mapping(path: str) -> Mapping:
    """Reads {"folders": {"rain/light": ["rain", 1], ...}, "classes": {"dogs": "dog", ...}}; "classes" may be absent.

    Raises:
      InputError: no such file, no JSON, an entry of another form, one corruption and severity twice.
    """
    try:
        with open(path) as file:
            content = json.load(file, object_pairs_hook=lambda pairs: _once(pairs, path))
    except OSError as error:
        raise InputError(f"cannot read --mapping={path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"--mapping={path} is not JSON") from None
    except json.JSONDecodeError as error:
        raise InputError(f"--mapping={path} is not JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("folders"), dict) or not content["folders"]:
        raise InputError(f'--mapping={path} must hold {{"folders": {{"FOLDER": ["CORRUPTION", SEVERITY], ...}}}}')
    strange = next((key for key in content if key not in Mapping._fields), None)
    if strange:
        raise InputError(f"--mapping={path} has no field {strange!r}{nearest(strange, Mapping._fields)}")
    return Mapping(_folders(content["folders"], path), _classes(content.get("classes", {}), path))


def _once(pairs: list[tuple[str, Any]], path: str) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"--mapping={path} names {twice!r} twice")
    return dict(pairs)


def _folders(entries: dict[str, Any], path: str) -> dict[str, tuple[str, int]]:
    held: dict[tuple[str, int], str] = {}
    for folder, entry in entries.items():
        good = isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str) and type(entry[1]) is int
        if not good or not entry[0] or entry[1] < 1:
            raise InputError(f'--mapping={path}: {folder!r} is {entry!r}, not ["CORRUPTION", SEVERITY from 1 on]')
        if tuple(entry) in held:
            raise InputError(f"--mapping={path}: {held[tuple(entry)]!r} and {folder!r} are both {entry[0]} {entry[1]}")
        held[tuple(entry)] = folder
    return {folder: tuple(entry) for folder, entry in entries.items()}


def _classes(entries: Any, path: str) -> dict[str, str]:
    if not isinstance(entries, dict):
        raise InputError(f'--mapping={path}: "classes" is no object of names')
    wrong = next((name for name, target in entries.items() if not isinstance(target, str)), None)
    if wrong is not None:
        raise InputError(f"--mapping={path}: class {wrong!r} is {entries[wrong]!r}, not the name of a class")
    return entries
