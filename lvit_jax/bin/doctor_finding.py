"""What a check of `lvit doctor` is given, and what it says."""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any, NamedTuple


class Patient(NamedTuple):
    """What is looked at beside the machine: the config of a run as nested dicts, and its workdir, each or None."""

    config: Mapping[str, Any] | None
    workdir: str | None
    job: Namespace | None = None  # the flags of `distributed.add_flags`, where several processes are to meet


class Finding(NamedTuple):
    """What a check says: 'ok', 'failed' or 'skipped', a line, and for a failure one fix."""

    status: str
    message: str
    fix: str = ""


class Result(NamedTuple):
    """A finding with the name of its check."""

    name: str
    status: str
    message: str
    fix: str


def ok(message: str) -> Finding:
    """Nothing is wrong."""
    return Finding("ok", message)


def failed(message: str, fix: str) -> Finding:
    """Something is wrong, and this mends it."""
    return Finding("failed", message, fix)


def skipped(message: str) -> Finding:
    """There is nothing to look at."""
    return Finding("skipped", message)
