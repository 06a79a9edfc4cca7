"""Where arrays live: the mesh, the sharding of each leaf, and the way of a host batch onto the devices."""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lvit_jax.errors import InputError
from lvit_jax.tree import flatten, match

Rules = Sequence[tuple[str, tuple]]  # (regex on the name of a leaf, the mesh axis or None of each of its dimensions)


def make_mesh(devices: int | None = None) -> Mesh:
    """A one-dimensional mesh with axis 'data' over the first `devices` devices of the job (None: all of them)."""
    available = jax.devices()
    count = len(available) if devices is None else devices
    if not 1 <= count <= len(available):
        raise InputError(f"mesh.devices={count}, but this job has {len(available)} device(s)")
    # Auto: with the default type, Explicit, every device would silently do the whole batch.
    return jax.make_mesh((count,), ("data",), (AxisType.Auto,), devices=available[:count])


def check_batch(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises InputError where a batch does not split evenly over devices and accumulated microbatches."""
    parts = mesh.size * accumulate
    if batch_size < 1 or batch_size % parts:
        near = max(parts, round(batch_size / parts) * parts)
        raise InputError(
            f"batch size {batch_size} does not divide over {mesh.size} device(s) x {accumulate} microbatch(es);"
            f" the nearest that does is {near}"
        )


def shardings(mesh: Mesh, tree: Any, rules: Rules = ()) -> Any:
    """The NamedSharding of each leaf: that of the first rule that matches its name, else replicated.

    A rule speaks of a parameter ('encoder/.*/kernel', (None, 'data')) and holds wherever the parameter's name ends
    a path, so that moments and averages of the optimizer lie as their parameter does.

    Args:
      tree: a TrainState, or any pytree of arrays or ShapeDtypeStructs.

    Raises:
      InputError: a rule that matches no leaf.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    anywhere = [(f"(?:.*/)?(?:{pattern})", spec) for pattern, spec in rules]
    specs = flatten(match(anywhere, dict.fromkeys(names), default=()))
    placed = [NamedSharding(mesh, P(*specs[name])) for name in names]
    return jax.tree.unflatten(jax.tree.structure(tree), placed)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis of every array of a batch is split over 'data'."""
    return NamedSharding(mesh, P("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, P())


def put(mesh: Mesh, host_batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """This process's rows [B/processes, ...] as its part of the global batch [B, ...], split over 'data'."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in host_batch.items()}


def this_process() -> dict[str, int]:
    """{'process', 'processes'}: which slice of every batch this process reads."""
    return {"process": jax.process_index(), "processes": jax.process_count()}


def check_alike(facts: Mapping[str, Any]) -> None:
    """Raises InputError where a fact (JSON) is another in this process than in process 0; all processes must call it.

    What differs between hosts (a data set, weights, a version) would train something that nobody asked for.
    """
    if jax.process_count() == 1:
        return
    digests = [zlib.crc32(json.dumps(fact, sort_keys=True).encode()) for fact in facts.values()]
    every = multihost_utils.process_allgather(np.array(digests, np.uint32))  # [processes, facts]
    for name, column in zip(facts, every.T, strict=True):
        others = np.flatnonzero(column != column[0])
        if len(others):
            raise InputError(f"{name} of process {others[0]} is not that of process 0; every host must have the same")


def gather(tree: Any) -> Any:
    """Arrays of any layout, whole, as numpy arrays on every process; all processes must call it."""
    return multihost_utils.process_allgather(tree, tiled=True)


def place(mesh: Mesh, make: Callable, *args: Any, rules: Rules = ()) -> Any:
    """`make(*args)`, computed by jit straight into the shardings of its result.

    Loaded weights and teachers belong in `args`: what `make` closes over is baked into the program.
    """
    out = shardings(mesh, jax.eval_shape(make, *args), rules)
    return jax.jit(make, out_shardings=out)(*args)
