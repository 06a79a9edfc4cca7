"""Folders that commands are given: one that is no run, or cannot be written, is told before the work begins."""

import os
from collections.abc import Sequence
from pathlib import Path

from lvit_jax.errors import InputError
from lvit_jax.training.record import UNTRAINED, read_record


def check_models(workdirs: Sequence[str]) -> None:
    """Raises InputError where one is neither a run nor an import; each may have 'untrained:' before it."""
    for workdir in workdirs:
        if not workdir.removeprefix(UNTRAINED):
            raise InputError("a workdir is empty; name the folder of a run or an import")
        read_record(workdir.removeprefix(UNTRAINED))


def check_out(folder: str, flag: str = "--out") -> None:
    """Raises InputError where what a flag names cannot be a folder and written: the nearest one there is tells."""
    if "://" in folder:  # the store will say
        return
    path = Path(folder).absolute()
    above = next(place for place in (path, *path.parents) if place.exists())
    if not above.is_dir():
        raise InputError(f"{flag}={folder}: {above} is a file, and not a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"{flag}={folder}: {above} may not be written")
