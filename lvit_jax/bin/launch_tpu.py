"""What each way of launching calls a TPU slice; which slices there are, `training/chips.py` says. No jax here.

Sources, read 2026-11-21: cloud.google.com/tpu/docs/{v2,v3,v5e,v6e,runtimes} (types, VMs, runtime versions; runtimes was
last updated 2026); github.com/AI-Hypercomputer/xpk src/xpk/core/system_characteristics.py at 02b0c09 (machine types,
machines per slice, GKE labels); docs.cloud.google.com/tpu/docs/tpus-and-migs (Compute Engine: v5p, v6e, TPU7x only);
github.com/skypilot-org/skypilot tests of `make_deploy_resources_variables` (image families); github.com/jax-ml/jax
pull requests 5962 and 6500 (shapes of v2 and v3 slices).
"""

from typing import NamedTuple

from lvit_jax.training.chips import CHIPS, accelerator_type, count_chips, read_name

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
      InputError: no such generation or topology (see `chips.read_name`).
    """
    return _slice(*read_name("cluster.tpu", text, GENERATIONS))


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
        accelerator_type=accelerator_type(kind.accelerator, topology),
        machine_type=f"{kind.machine}{per_host}t",
        generation=kind,
    )
