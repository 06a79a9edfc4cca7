"""The checks of `lvit doctor` on folders and buckets: workdir, free disk, data, compile cache.

Heavy imports are inside the checks: each runs in a process of its own.
"""

import contextlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from etils import epath

from lvit_jax.bin.doctor_finding import Finding, Patient, failed, ok, skipped
from lvit_jax.errors import InputError

ENOUGH_DISK = 5e9  # bytes: a few checkpoints of a small model with its optimizer
PROBE = 16 << 20  # bytes written to the workdir and read back
SLOW = 1.0  # MB/s: below it, checkpoints stall a run
# Archives that nothing may download for you: tfds reads them from DATA_DIR/downloads/manual.
ARCHIVES = {
    "imagenet2012": ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"),
    "imagenet2012_real": ("ILSVRC2012_img_val.tar",),
    "imagenet2012_corrupted": ("ILSVRC2012_img_val.tar",),
    "fgvc_aircraft": ("fgvc-aircraft-2013b.tar.gz",),
    **{f"imagenet_c/{name}": (f"{name}.tar",) for name in ("noise", "blur", "weather", "digital", "extra")},
}
WHERE = {
    "fgvc_aircraft": "www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft",
    "imagenet_c": "zenodo.org/records/2235448",
}
REGISTERED = "image-net.org/download-images, after registration"


def check_workdir(patient: Patient) -> Finding:
    """The workdir takes files and gives them back, at a bearable speed; it is left as it was."""
    if patient.workdir is None:
        return skipped("give --workdir to see whether it can be written")
    place = _standing(patient.workdir)
    if "://" not in patient.workdir and not place.is_dir():
        return failed(f"{place} is a file", "name a folder")
    probe, data = epath.Path(place) / f".lvit_doctor_{uuid.uuid4().hex}", os.urandom(PROBE)
    try:
        rate = PROBE / 1e6 / _seconds(lambda: _write(probe, data))
        if probe.read_bytes() != data:
            return failed(f"{place} gives back other bytes than were written", "use another disk or bucket")
    except Exception as error:  # each file system has its own
        return failed(f"cannot write to {place}: {' '.join(str(error).split())[:300]}", _rights(patient.workdir))
    finally:
        with contextlib.suppress(Exception):  # it could not be written either
            probe.unlink(missing_ok=True)
    text = f"{place}: takes {rate:.0f} MB/s"
    if rate < SLOW:
        return failed(text, "use a bucket in the region of this machine, or a disk of its own")
    return ok(text)


def check_disk(patient: Patient) -> Finding:
    """The disks of a local workdir, of the data and of temporary files have room."""
    data_dir = patient.config["data"]["data_dir"] if patient.config else None
    places = (patient.workdir or ".", data_dir or tempfile.gettempdir(), tempfile.gettempdir())
    local = [_standing(place) for place in places if "://" not in place]
    free = {str(place): shutil.disk_usage(place).free for place in local}
    text = ", ".join(f"{place} {count / 1e9:.0f} GB" for place, count in free.items())
    full = [place for place, count in free.items() if count < ENOUGH_DISK]
    if full:
        return failed(f"free: {text}", f"make room for {ENOUGH_DISK / 1e9:.0f} GB in {full[0]}, or name another folder")
    return ok(f"free: {text}")


def check_data(patient: Patient) -> Finding:
    """The data set of the config is there, and its first and last image can be decoded."""
    if patient.config is None:
        return skipped("give --config to see whether its data are there")
    from lvit_jax.build.data import load_data
    from lvit_jax.data.pipeline import eval_batches

    section = patient.config["data"]
    try:
        data = load_data(patient.config)
    except InputError as error:
        text = " ".join(str(error).split())
        absent = "not prepared" in text or section["source"].startswith("folder:")
        return failed(text, _get_data(section) if absent else "change what this line names in the config")
    for split, source in (("train", data.train), ("validation", data.val)):
        if source is None:
            continue
        ends = source.take([0, source.size - 1])
        batch = next(iter(eval_batches(ends, data.transform, batch_size=2)()))
        if batch["broken"].any():
            name = ends.ids()[int(batch["broken"].argmax())]
            return failed(f"{split} has a broken image: {name}", "replace this file")
    return ok(f"{section['source']}: {data.train.size} training images, {data.record['val_size']} for validation")


def check_cache(_: Patient) -> Finding:
    """The folder of compiled programs can be written: without it, every start compiles anew."""
    place = os.environ["JAX_COMPILATION_CACHE_DIR"]
    if "://" not in place and not os.access(_standing(place), os.W_OK):
        return failed(f"cannot write to {place}", "set JAX_COMPILATION_CACHE_DIR to a folder that can be written")
    return ok(place)


def _standing(place: str) -> epath.Path | Path:
    """The folder itself, or the nearest one above it that is there; buckets have no folders."""
    if "://" in place:
        return epath.Path(place)
    path = Path(os.path.expanduser(place)).absolute()
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _write(path: epath.Path, data: bytes) -> None:
    """Writes; on a local disk until it is really there."""
    with path.open("wb") as file:
        file.write(data)
        if hasattr(file, "fileno"):
            file.flush()
            os.fsync(file.fileno())


def _seconds(action: Callable) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _rights(workdir: str) -> str:
    if workdir.startswith("gs://"):
        return "`gcloud auth application-default login`, and the role storage.objectUser on the bucket"
    return f"`mkdir -p {workdir}` as its owner, or name a folder of yours"


def _get_data(section: Mapping[str, Any]) -> str:
    """How the data set of a config is got."""
    if section["source"].startswith("folder:"):
        return "put images into class folders there, or into train/ and val/ with class folders in them"
    how = how_to_get(section["source"], section["data_dir"])
    return how if how.startswith("put") else f"{how}, or --config.data.source=folder:PATH for images of your own"


def how_to_get(source: str, data_dir: str | None) -> str:
    """How a data set of tfds is got: which archives are missing and where they go, and the command."""
    from lvit_jax.data.prepared import OURS, prepare_command

    place, base = epath.Path(data_dir or "~/tensorflow_datasets").expanduser(), source.split("/")[0]
    manual = place / "downloads" / "manual"
    missing = [name for name in ARCHIVES.get(source, ARCHIVES.get(base, ())) if not (manual / name).exists()]
    build = "the next command prepares it" if base in OURS else prepare_command(source, str(place))
    if missing:
        return f"put {' and '.join(missing)} (from {WHERE.get(base, REGISTERED)}) into {manual}, then {build}"
    return build
