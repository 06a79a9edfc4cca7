"""The TPU slices there are, and what each way of launching calls them. No jax here.

Sources, read 2026-11-21: cloud.google.com/tpu/docs/{v2,v3,v5e,v6e,runtimes} (types, VMs, runtime versions; runtimes was
last updated 2026); github.com/AI-Hypercomputer/xpk src/xpk/core/system_characteristics.py at 02b0c09 (3-d topologies,
machine types, GKE labels); docs.cloud.google.com/tpu/docs/tpus-and-migs (Compute Engine: v5p, v6e, TPU7x only);
github.com/skypilot-org/skypilot tests of `make_deploy_resources_variables` (image families); github.com/jax-ml/jax
pull requests 5962 and 6500 (shapes of v2 and v3 slices).
"""

from math import prod
from typing import NamedTuple

from lvit_jax.errors import InputError, unknown

_2D = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
# Larger slices exist; these are the ones of up to 1024 chips.
_3D = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x4x12", "4x8x8", "4x4x20", "4x8x12", "4x4x28", "8x8x8")
_3D += ("4x12x12", "4x8x20", "4x4x44", "8x8x12", "4x4x52", "4x8x28", "4x12x20", "8x8x16")
_TPU_IMAGE = "ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e"
_OLD = "tpu-ubuntu2204-base"  # runtime of v4 and older


class Generation(NamedTuple):
    """A generation of TPUs; None where a way of launching does not know it."""

    topologies: tuple[str, ...]
    devices: int  # JAX devices per chip: two where the two cores of a chip do not act as one
    api: tuple[str, int] | None  # Cloud TPU API: accelerator type's prefix, and what its number counts per chip
    runtime: str | None  # Cloud TPU API: software version
    machine: str  # machine type, up to the number of chips
    gke: str | None  # label of GKE's nodes
    image: str | None  # Compute Engine: image family


GENERATIONS = {
    "v2": Generation(("2x2", "4x4", "8x8", "8x16", "16x16"), 2, ("v2", 2), _OLD, "", None, None),
    "v3": Generation((*_2D[1:2], *_2D[3:], "16x32", "32x32"), 2, ("v3", 2), _OLD, "", None, None),
    "v4": Generation(
        ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x12", "8x8x16"),
        *(1, ("v4", 2), _OLD, "ct4p-hightpu-", "tpu-v4-podslice", None),
    ),
    "v5e": Generation(_2D, 1, ("v5litepod", 1), "v2-alpha-tpuv5-lite", "ct5lp-hightpu-", "tpu-v5-lite-podslice", None),
    "v5p": Generation(_3D, 1, ("v5p", 2), "v2-alpha-tpuv5", "ct5p-hightpu-", "tpu-v5p-slice", _TPU_IMAGE),
    "v6e": Generation(_2D, 1, ("v6e", 1), "v2-alpha-tpuv6e", "ct6e-standard-", "tpu-v6e-slice", _TPU_IMAGE),
    "tpu7x": Generation(_3D, 2, None, None, "tpu7x-standard-", "tpu7x", "ubuntu-accel-2404-amd64-tpu-tpu7x"),
}


class Slice(NamedTuple):
    """One TPU slice: how many machines, chips and devices, and its names."""

    name: str  # v5e:4x4
    topology: str
    chips: int
    chips_per_host: int
    hosts: int
    devices: int
    accelerator_type: str | None  # v5litepod-16
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
    if topology not in GENERATIONS[name].topologies:
        raise _no_topology(name, topology)
    return _slice(name, topology)


def _all():
    return (_slice(name, topology) for name, kind in GENERATIONS.items() for topology in kind.topologies)


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
        accelerator_type=f"{kind.api[0]}-{chips * kind.api[1]}" if kind.api else None,
        machine_type=f"{kind.machine}{per_host}t",
        generation=kind,
    )


def count_chips(topology: str) -> int:
    """'4x4' -> 16."""
    return prod(map(int, topology.split("x")))


def _no_topology(name: str, topology: str) -> InputError:
    """Says the shape of the same dimensions in another order, or that with the nearest number of chips."""
    valid = GENERATIONS[name].topologies
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
