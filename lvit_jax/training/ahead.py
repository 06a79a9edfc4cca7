"""A step compiled for TPUs that are not here: what it needs of a chip's memory, what it moves, what it says to others.

libtpu compiles on any Linux machine; nothing is run. Without it, `held_bytes` still says what a device holds between
steps.
"""

import importlib.util
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from lvit_jax.training import mesh as mesh_lib
from lvit_jax.training.chips import Topology, libtpu_options
from lvit_jax.training.traffic import WIDTHS, UnknownLength, executed, hbm_bytes
from lvit_jax.types import Tree

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
TOO_LARGE = (r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm", r"\(([\d.]+)([KMGT]?)\) exceeds available HBM")
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
OPERANDS_FIRST = ("all-gather",)  # the result of its asynchronous start is (operands, results)


class Compiled(NamedTuple):
    """What a compiled step takes on one device; None where the compiler did not say."""

    arguments: int | None  # bytes: state and batch
    temporaries: int | None  # bytes: activations, and results that take no argument's place
    total: int  # bytes; of a program that does not fit, what the compiler says it would take
    fits: bool
    flops: float | None  # the compiler's count, element-wise work in it and the body of a loop once
    moved: int | None  # bytes to and from the HBM
    collectives: dict[str, dict[str, float]] | None  # kind -> how many a step, and MiB of their results


def has_libtpu() -> bool:
    """Whether libtpu is installed; it is not loaded."""
    return importlib.util.find_spec("libtpu") is not None


def devices(topology: Topology) -> list:
    """The devices of a topology, as jax would show them there.

    `chips.libtpu_environment` must have been set before jax was imported.
    """
    return list(topologies.get_topology_desc(**libtpu_options(topology)).devices)


def held_bytes(mesh: Any, tree: Tree, rules: mesh_lib.Rules = ()) -> int:
    """Bytes of a pytree of ShapeDtypeStructs on each device of a mesh, which may be abstract."""
    placed = zip(jax.tree.leaves(tree), jax.tree.leaves(mesh_lib.shardings(mesh, tree, rules)), strict=True)
    return sum(math.prod(sharding.shard_shape(x.shape)) * x.dtype.itemsize for x, sharding in placed)


def compile_ahead(step: Callable, *args: Any) -> Compiled:
    """Compiles a jitted step whose shardings name the devices of a topology.

    Args:
      args: ShapeDtypeStructs.
    """
    try:
        compiled = step.lower(*args).compile()
    except jax.errors.JaxRuntimeError as error:
        needed = _needed(str(error))
        if needed is None:
            raise
        return Compiled(None, None, needed, False, None, None, None)
    memory = compiled.memory_analysis()
    arguments = memory.argument_size_in_bytes
    own = memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.generated_code_size_in_bytes
    temporaries = memory.temp_size_in_bytes + own
    total, flops, text = arguments + temporaries, compiled.cost_analysis().get("flops"), _text(compiled)
    try:
        moved, collectives = (None, None) if text is None else (hbm_bytes(text), read_collectives(text))
    except UnknownLength:
        moved = collectives = None
    return Compiled(arguments, temporaries, total, True, flops, moved, collectives)


def _needed(message: str) -> int | None:
    """Bytes that a program takes, from the error of a compiler to which they are too many; None for other errors."""
    for pattern in TOO_LARGE:
        if found := re.search(pattern, message):
            return round(float(found[1]) * UNITS[found[2]])
    return None


def _text(compiled: jax.stages.Compiled) -> str | None:
    try:
        return compiled.as_text()
    except Exception:  # on some programs the serialisation of libtpu fails, with whatever error
        return None


def read_collectives(text: str) -> dict[str, dict[str, float]]:
    """{kind: {"count", "mib" of the results}} of the collectives in a run of a program; loops are multiplied out.

    Args:
      text: of the compiled program, with its entry computation.
    """
    found: dict[str, dict[str, float]] = {}
    for each, _, times in executed(text, inside_fusions=True):
        kind = each.kind.removesuffix("-start")
        if kind not in COLLECTIVES:
            continue
        pairs = re.findall(r"([a-z]+\d*)\[([\d,]*)\]", each.result)
        sizes = [WIDTHS.get(dtype, 4) * math.prod(int(n) for n in sides.split(",") if n) for dtype, sides in pairs]
        if each.kind != kind and kind in OPERANDS_FIRST:
            sizes = sizes[len(sizes) // 2 :]
        entry = found.setdefault(kind, {"count": 0, "mib": 0.0})
        entry["count"] += times
        entry["mib"] += times * sum(sizes) / 2**20
    return found
