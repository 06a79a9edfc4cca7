"""What bad input raises: one line, exit code 2. Imports nothing, so that every room may use it."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A mistake of the user's (a name, a value, a file): `bin.app` prints its one line and exits with 2."""


class Stopped(RuntimeError):
    """A run that must not go on (a non-finite loss, too many broken images): one line, exit code 1."""


def nearest(name: str, options: Iterable[str]) -> str:
    """' (did you mean X?)' for the option most like `name`, or '' where none comes near."""
    close = difflib.get_close_matches(name, list(options), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def unknown(kind: str, name: str, options: Iterable[str]) -> InputError:
    """The error for a name that is not on a menu: says the nearest one and all the valid ones."""
    options = sorted(options)
    return InputError(f"unknown {kind} {name!r}{nearest(str(name), options)}; valid: {', '.join(options)}")
