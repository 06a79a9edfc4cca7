"""The checks of `lvit doctor` on the machine: versions, devices, other workers, the compile cache.

Heavy imports are inside the checks: each runs in a process of its own.
"""

import importlib.metadata
import os
import platform
import socket
from argparse import Namespace
from pathlib import Path

from lvit_jax.bin import distributed
from lvit_jax.bin.doctor_finding import Finding, Patient, failed, ok
from lvit_jax.errors import Stopped

# What the tests run on: from Python 3.11 with jax 0.10 to Python 3.13 with jax 0.12 (below the second number).
TESTED = {"python": ("3.11", "3.14"), "jax": ("0.10", "0.13"), "flax": ("0.12.8", "0.13")}


def check_python(_: Patient) -> Finding:
    """The Python version is one that is tested."""
    found, (least, below) = platform.python_version(), TESTED["python"]
    if not _within(found, least, below):
        return failed(f"Python {found}; tested: {least} up to, not including, {below}", "make a venv with Python 3.12")
    return ok(f"Python {found}")


def check_packages(_: Patient) -> Finding:
    """Every requirement of setup.py is installed in a version that it allows."""
    from packaging.requirements import Requirement

    if _version("lvit_jax") is None:
        return failed("lvit_jax is not installed", "`pip install -e .` in the clone")
    wrong = []
    for text in importlib.metadata.requires("lvit_jax") or ():
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = _version(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            wrong.append((f"{requirement.name}{requirement.specifier}", found or "absent"))
    if wrong:
        needs = ", ".join(f"{need} (here: {found})" for need, found in wrong)
        return failed(f"needs {needs}", "pip install " + " ".join(f"'{need}'" for need, _ in wrong))
    return ok("all requirements of lvit_jax are installed")


def check_tested(_: Patient) -> Finding:
    """jax and flax lie in the range that is tested, and jaxlib is jax's own."""
    found = {name: _version(name) or "absent" for name in ("jax", "jaxlib", "flax", "orbax-checkpoint")}
    for name in ("jax", "flax"):
        least, below = TESTED[name]
        if found[name] == "absent" or not _within(found[name], least, below):
            return failed(f"{name} {found[name]}; tested: {least} up to, not including, {below}", _pip(name))
    if found["jaxlib"] != found["jax"]:
        return failed(f"jax {found['jax']} with jaxlib {found['jaxlib']}", f"pip install 'jaxlib=={found['jax']}'")
    return ok(", ".join(f"{name} {version}" for name, version in found.items()))


def check_devices(_: Patient) -> Finding:
    """jax sees devices, and TPUs where the machine has some."""
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        return failed(" ".join(str(error).split())[:300], _get_devices())
    text = f"{len(devices)} x {devices[0].device_kind}, platform {devices[0].platform}"
    if devices[0].platform == "cpu" and _has_tpu():
        return failed(f"this machine has a TPU, and jax sees {text}", _get_devices())
    return ok(text)


def check_processes(patient: Patient) -> Finding:
    """The processes of a run meet; without --distributed: the machines that GKE names can be found by name."""
    if patient.job:
        return _meet(patient.job)
    names = [name for name in os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",") if name]
    if len(names) < 2:
        return ok("one process; a run of several takes --distributed")
    number = os.environ.get("TPU_WORKER_ID", "?")
    lost = [name for name in names if not _resolves(name)]
    if lost:
        fix = "wait until all workers are up; on GKE, look at `kubectl get pods` and at the headless service"
        return failed(f"worker {number} of {len(names)} finds no address for {', '.join(lost)}", fix)
    return ok(f"worker {number} of {len(names)}; all names resolve")


def _meet(job: Namespace) -> Finding:
    """All connect as in a run, count each other's devices, and part again."""
    import jax

    from lvit_jax.training.mesh import this_process

    try:
        distributed.connect(job)
    except Stopped as error:
        return failed(str(error), "run the same command on every machine, and let them reach that port and the next")
    place = this_process()
    text = f"process {place['process']} of {place['processes']}, {jax.device_count()} devices in all"
    jax.distributed.shutdown()  # waits for the others
    return ok(text)


def _within(found: str, least: str, below: str) -> bool:
    from packaging.version import Version

    return Version(least) <= Version(found) < Version(below)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pip(name: str) -> str:
    least, below = TESTED[name]
    return f"pip install '{name}>={least},<{below}'"


def _has_tpu() -> bool:
    """Whether this is a machine with TPU chips: what the kernel shows of them."""
    return bool(list(Path("/dev").glob("accel[0-9]*"))) or Path("/dev/vfio/0").exists()


def _resolves(name: str) -> bool:
    try:
        return bool(socket.getaddrinfo(name.partition(":")[0], None))
    except OSError:
        return False


def _get_devices() -> str:
    asked = os.environ.get("JAX_PLATFORMS")
    if asked:
        return f"unset JAX_PLATFORMS (it is {asked!r})"
    if _version("libtpu") is None:
        return "pip install 'jax[tpu]'"
    return "end the process that holds the TPU: `sudo lsof /dev/accel* /dev/vfio/*` names it"
