"""What each way of launching calls a TPU slice; which slices there are, `training/chips.py` says. No jax here.

Sources, read 2026-11-21: cloud.google.com/tpu/docs/{v2,v3,v5e,v6e,runtimes} (types, VMs, runtime versions; runtimes was
last updated 2026); github.com/AI-Hypercomputer/xpk src/xpk/core/system_characteristics.py at 02b0c09 (machine types,
machines per slice, GKE labels); docs.cloud.google.com/tpu/docs/tpus-and-migs (Compute Engine: v5p, v6e, TPU7x only);
github.com/skypilot-org/skypilot tests of `make_deploy_resources_variables` (image families); github.com/jax-ml/jax
pull requests 5962 and 6500 (shapes of v2 and v3 slices).
"""

from math import prod
from typing import NamedTuple

from lvit_jax.errors import InputError, unknown
from lvit_jax.training.chips import CHIPS

_IMAGE = "ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e"
_OLD = "tpu-ubuntu2204-base"  # runtime of v4 and older


class Generation(NamedTuple):
    """A generation of TPUs; None where a way of launching does not know it."""

    shapes: tuple[str, ...]
    devices: int  # JAX devices per chip
    accelerator: tuple[str, int]  # accelerator type's name, and how many of its units are a chip
    runtime: str | None  # Cloud TPU API: software version
    machine: str  # machine type, up to the number of chips
    gke: str | None  # label of GKE's nodes
    image: str | None  # Compute Engine: image family


def _known(name: str, runtime: str | None, machine: str, gke: str, image: str | None) -> Generation:
    """A generation whose chips `lvit plan` knows."""
    chip = CHIPS[name]
    return Generation(chip.shapes, chip.devices, chip.accelerator, runtime, machine, gke, image)


GENERATIONS = {
    "v2": Generation(("2x2", "4x4", "8x8", "8x16", "16x16"), 2, ("v2", 2), _OLD, "", None, None),
    "v3": Generation(
        ("2x2", "4x4", "4x8", "8x8", "8x16", "16x16", "16x32", "32x32"), 2, ("v3", 2), _OLD, "", None, None
    ),
    "v4": _known("v4", _OLD, "ct4p-hightpu-", "tpu-v4-podslice", None),
    "v5e": _known("v5e", "v2-alpha-tpuv5-lite", "ct5lp-hightpu-", "tpu-v5-lite-podslice", None),
    "v5p": _known("v5p", "v2-alpha-tpuv5", "ct5p-hightpu-", "tpu-v5p-slice", _IMAGE),
    "v6e": _known("v6e", "v2-alpha-tpuv6e", "ct6e-standard-", "tpu-v6e-slice", _IMAGE),
    "tpu7x": _known("tpu7x", None, "tpu7x-standard-", "tpu7x", "ubuntu-accel-2404-amd64-tpu-tpu7x"),
}


class Slice(NamedTuple):
    """One TPU slice: how many machines, chips and devices, and its names."""

    name: str  # v5e:4x4
    topology: str
    chips: int
    chips_per_host: int
    hosts: int
    devices: int
    accelerator_type: str  # v5litepod-16
    machine_type: str
    generation: Generation


def read_slice(text: str) -> Slice:
    """'v5e:4x4' -> Slice.

    Raises:
      InputError: no such generation or topology; an accelerator type ('v5litepod-16') is told its spelling here.
    """
    for right in _all():
        if text == right.accelerator_type:
            raise InputError(f"cluster.tpu={text!r} is an accelerator type; write {right.name!r}")
    name, colon, topology = text.partition(":")
    if not colon:
        raise InputError(f"cluster.tpu={text!r} is not generation:topology, such as v5e:4x4")
    if name not in GENERATIONS:
        raise unknown("TPU generation", name, GENERATIONS)
    if topology not in GENERATIONS[name].shapes:
        raise _no_topology(name, topology)
    return _slice(name, topology)


def _all():
    return (_slice(name, topology) for name, kind in GENERATIONS.items() for topology in kind.shapes)


def _slice(name: str, topology: str) -> Slice:
    kind = GENERATIONS[name]
    chips = count_chips(topology)
    # One machine holds up to 4 chips; v5e and v6e also come with 8 on one.
    per_host = chips if chips < 4 or topology == "2x4" else 4
    return Slice(
        name=f"{name}:{topology}",
        topology=topology,
        chips=chips,
        chips_per_host=per_host,
        hosts=chips // per_host,
        devices=chips * kind.devices,
        accelerator_type=f"{kind.accelerator[0]}-{chips * kind.accelerator[1]}",
        machine_type=f"{kind.machine}{per_host}t",
        generation=kind,
    )


def count_chips(topology: str) -> int:
    """'4x4' -> 16."""
    return prod(map(int, topology.split("x")))


def _no_topology(name: str, topology: str) -> InputError:
    """Says the shape of the same dimensions in another order, or that with the nearest number of chips."""
    valid = GENERATIONS[name].shapes
    sides = topology.split("x")
    if not all(side.isdecimal() and int(side) for side in sides):
        raise unknown(f"topology of {name}", topology, valid)
    near = min(valid, key=lambda known: (sorted(known.split("x")) != sorted(sides), _distance(known, topology)))
    return InputError(
        f"{name} has no topology {topology!r} (did you mean '{name}:{near}', {count_chips(near)} chips?);"
        f" valid: {', '.join(valid)}"
    )


def _distance(known: str, wanted: str) -> int:
    return abs(count_chips(known) - count_chips(wanted))
