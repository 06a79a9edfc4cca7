"""Data sets of tfds and of ours: found where they lie prepared, or prepared, as ArrayRecord."""

import contextlib
import importlib
import logging
import os
import sys

from lvit_jax.errors import InputError, nearest, unknown

DEFAULT_DIR = "~/tensorflow_datasets"
# Data sets that the catalogue of tfds lacks; prepared where they are first asked for.
OURS = {
    "digits": "lvit_jax.data.builders.digits:Digits",
    "fgvc_aircraft": "lvit_jax.data.builders.fgvc_aircraft:FgvcAircraft",
    "imagenet_c": "lvit_jax.data.builders.imagenet_c:ImagenetC",
}

log = logging.getLogger(__name__)


class Absent(InputError):
    """A data set that is not there."""


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


def is_there(name: str, data_dir: str | None) -> bool:
    """Whether the data set lies in `data_dir`; one of `OURS` is prepared here if its archive is in its place."""
    try:
        open_builder(name, data_dir)
    except Absent:
        return False
    return True


def prepare(name: str, data_dir: str | None) -> list[str]:
    """Makes a data set, downloading what may be downloaded; one that is there stays as it is. Its splits.

    Raises:
      InputError: a data set that nobody knows, or whose archives have to be put in their place first.
    """
    import tensorflow_datasets as tfds

    if name.startswith("folder:"):
        raise InputError(f"{name!r} needs no preparing: give it to any command as --source or --config.data.source")
    folder = os.path.expanduser(data_dir or DEFAULT_DIR)
    if name.split("/")[0] in OURS:  # or the line that says which archive goes where
        return sorted(open_builder(name, data_dir).info.splits)
    if is_there(name, data_dir):
        return sorted(open_builder(name, data_dir).info.splits)
    if name.split("/")[0] not in tfds.list_builders(with_community_datasets=False):
        raise _absent(name, folder)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # figures go to stdout
            builder = tfds.builder(name, data_dir=folder, file_format="array_record")
            builder.download_and_prepare()
    except Exception as error:  # of the network, of missing archives, of a dozen types of tfds
        raise InputError(f"cannot prepare {name!r} in {folder}: {' '.join(str(error).split())}") from None
    return sorted(builder.info.splits)


def _absent(name: str, data_dir: str) -> Absent:
    import tensorflow_datasets as tfds

    base = name.split("/")[0].split(":")[0]
    known = tfds.list_builders(with_community_datasets=False)
    if base in {*known, *OURS}:
        return Absent(f"data set {name!r} is not prepared in {data_dir}; run {prepare_command(name, data_dir)}")
    hint = nearest(name, [*OURS, *known])
    return Absent(
        f"unknown data set {name!r}{hint}; valid: {', '.join(OURS)}, folder:PATH, or a name of tensorflow_datasets"
    )


def prepare_command(name: str, data_dir: str) -> str:
    """The command that prepares a data set, in backquotes. (`tfds build` itself asks for apache_beam.)"""
    return f"`lvit prepare --source={name} --data_dir={data_dir}`"


def _prepare(name: str, data_dir: str):
    """Prepares one of `OURS` once; a lock keeps processes that start together from doing it twice."""
    import fcntl

    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.extractor import ExtractError

    base, _, part = name.partition("/")
    module, kind = OURS[base].split(":")
    make = getattr(importlib.import_module(module), kind)
    if part not in (parts := [config.name for config in make.BUILDER_CONFIGS] or [""]):
        if not part:
            raise InputError(f"{base!r} is prepared in parts; name one: {', '.join(f'{base}/{one}' for one in parts)}")
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
        raise Absent(f"data set {builder.name!r} is not prepared; {where}, and the next command prepares it")
    log.info("preparing %s from %s, once", builder.name, os.path.join(folder, builder.archive))
