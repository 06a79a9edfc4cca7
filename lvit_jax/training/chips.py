"""What TPU chips have, and the shapes of slices they come in. Imports no jax, so that a misspelt name is instant.

Figures per chip as Google Cloud's pages state them: https://cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e and
https://docs.cloud.google.com/tpu/docs/tpu7x, read on 2026-11-21. `usable` is what libtpu 0.0.42 says is available when
a program is too large ("exceeds available HBM (15.75G)"), times the devices of a chip: the rest is the runtime's.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lvit_jax.errors import InputError, unknown

GIB = 2**30


class Chip(NamedTuple):
    """One kind of chip; all figures are of a whole chip, whatever its number of cores."""

    flops: float  # bfloat16 FLOP/s of the matrix units
    hbm: float  # GiB
    usable: float  # GiB
    bandwidth: float  # bytes/s of the HBM
    devices: int  # as jax shows them: the two cores of v4 and v5p are one device (megacore), those of tpu7x are two
    accelerator: tuple[str, int]  # name of the accelerator type, and how many of its units are a chip
    shapes: tuple[str, ...]


FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")

CHIPS = {
    "v4": Chip(275e12, 32, 30.75, 1200e9, 1, ("v4", 2), CUBES),
    "v5e": Chip(197e12, 16, 15.75, 819e9, 1, ("v5litepod", 1), FLAT),
    "v5p": Chip(459e12, 95, 95.74, 2765e9, 1, ("v5p", 2), (*CUBES, "16x16x16", "16x16x24")),
    "v6e": Chip(918e12, 32, 31.25, 1638e9, 1, ("v6e", 1), FLAT),
    "tpu7x": Chip(2307e12, 192, 2 * 94.75, 7380e9, 2, ("tpu7x", 2), CUBES),
}


# `device_kind` as jax shows it -> name in CHIPS; read from libtpu's own topologies
KINDS = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v6 lite": "v6e", "TPU7x": "tpu7x"}


def peak_flops(device_kind: str) -> float | None:
    """bfloat16 FLOP/s of one device, as jax counts them; None for one that is no TPU of `CHIPS`."""
    chip = CHIPS.get(KINDS.get(device_kind, ""))
    return chip.flops / chip.devices if chip else None


class Topology(NamedTuple):
    """`slices` slices of one shape."""

    name: str  # of CHIPS
    shape: str
    slices: int = 1

    def __str__(self) -> str:
        return f"{self.name}:{self.shape}" + (f" x {self.slices} slices" if self.slices > 1 else "")

    @property
    def chip(self) -> Chip:
        return CHIPS[self.name]

    @property
    def chips(self) -> int:
        """Of one slice."""
        return count_chips(self.shape)

    @property
    def devices(self) -> int:
        """As jax counts them, of all slices."""
        return self.chips * self.chip.devices * self.slices


def parse_topology(text: str, slices: int = 1) -> Topology:
    """'v5e:4x4' -> Topology.

    Raises:
      InputError: an unknown chip, or a shape that it does not come in (see `read_name`).
    """
    name, shape = read_name("--topology", text, CHIPS)
    if slices < 1:
        raise InputError(f"--slices={slices}; the least is 1")
    return Topology(name, shape, slices)


def read_name(field: str, text: str, menu: Mapping[str, Any]) -> tuple[str, str]:
    """'v5e:4x4' -> ('v5e', '4x4').

    Args:
      field: where the text was written, for the error.
      menu: name -> what has the fields `shapes` and `accelerator` of a Chip.

    Raises:
      InputError: a name or shape that is not on the menu, with the nearest; an accelerator type ('v5litepod-16') and
        capitals are told their spelling here.
    """
    for name, kind in menu.items():
        for shape in kind.shapes:
            right = f"{name}:{shape}"
            if text == right:
                return name, shape
            if text.lower() in (right, accelerator_type(kind.accelerator, shape)):
                raise InputError(f"{field}={text!r} is no generation:topology; write {right!r}")
    name, colon, shape = text.partition(":")
    if not colon:
        raise InputError(f"{field}={text!r} is no generation:topology, such as v5e:4x4; there are: {', '.join(menu)}")
    raise _no_shape(name, shape, menu[name].shapes) if name in menu else unknown("TPU generation", name, menu)


def accelerator_type(accelerator: tuple[str, int], shape: str) -> str:
    """(("v5litepod", 1), '4x4') -> 'v5litepod-16'."""
    name, units = accelerator
    return f"{name}-{units * count_chips(shape)}"


def count_chips(shape: str) -> int:
    """'4x4' -> 16."""
    return math.prod(map(int, shape.split("x")))


def _no_shape(name: str, shape: str, valid: Sequence[str]) -> InputError:
    """Says the shape of the same sides in another order, or that with the nearest number of chips."""
    sides = shape.split("x")
    if not all(side.isdecimal() and int(side) for side in sides):
        return unknown(f"topology of {name}", shape, valid)
    near = min(valid, key=lambda known: (sorted(known.split("x")) != sorted(sides), _distance(known, shape)))
    return InputError(
        f"{name} has no topology {shape!r} (did you mean '{name}:{near}', {count_chips(near)} chips?);"
        f" valid: {', '.join(valid)}"
    )


def _distance(known: str, wanted: str) -> int:
    return abs(count_chips(known) - count_chips(wanted))


def libtpu_environment(topology: Topology) -> dict[str, str]:
    """The environment variables with which libtpu compiles on a machine without TPU; set before jax is imported."""
    return {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to ask
        "TPU_ACCELERATOR_TYPE": accelerator_type(topology.chip.accelerator, topology.shape),
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no TPU is opened: no lock is needed
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # without a TPU, what it holds cannot be read back
    }


def libtpu_options(topology: Topology) -> dict[str, Any]:
    """The keyword arguments of `topologies.get_topology_desc`."""
    options: dict[str, Any] = {"platform": "tpu", "topology_name": f"{topology.name}:{topology.shape}"}
    if topology.name == "v4":  # libtpu's defaults are of another machine
        options |= {"chip_config_name": "megacore", "chips_per_host_bounds": (2, 2, 1), "wrap": (False,) * 3}
    if topology.chips == 1:
        options |= {"chips_per_host_bounds": (1, 1, 1)}
    return options | ({"num_slices": topology.slices} if topology.slices > 1 else {})
