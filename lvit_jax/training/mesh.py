"""Where arrays live: the mesh, the sharding of each leaf, the way of a host batch onto the devices, the jitted step."""

import json
import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lvit_jax.errors import InputError, unknown
from lvit_jax.training.step import make_step
from lvit_jax.tree import flatten, match
from lvit_jax.types import Objective, Tree

AXES = ("data", "fsdp")  # the batch is split over both, large parameters over the second
SMALL = 2**14  # leaves of fewer numbers stay whole: to gather them at each use costs more than it frees
Rules = Sequence[tuple[str, tuple]]  # (regex on the name of a leaf, the mesh axis or None of each of its dimensions)


def make_mesh(devices: int | None = None, fsdp: int = 1, available: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of ('data', 'fsdp'); several slices of a pod lie along 'data', so that only gradients leave a slice.

    Args:
      devices: how many of the available devices; None: all of them.
      fsdp: over how many devices of a slice large parameters, their moments and teachers are split.
      available: None: the devices of this job.

    Raises:
      InputError: more devices than there are, or an `fsdp` that does not divide those of a slice.
    """
    available = list(jax.devices() if available is None else available)
    count = len(available) if devices is None else devices
    if not 1 <= count <= len(available):
        raise InputError(f"mesh.devices={count}, but this job has {len(available)} device(s)")
    slices: dict[int, list] = {}
    for device in available[:count]:
        slices.setdefault(getattr(device, "slice_index", 0), []).append(device)  # CPUs and GPUs have no such thing
    if len({len(group) for group in slices.values()}) > 1:
        sizes = ", ".join(str(len(group)) for group in slices.values())
        whole = count // len(slices) * len(slices)
        raise InputError(f"mesh.devices={count} cuts slices unevenly ({sizes}); take all {len(available)}, or {whole}")
    grid = _grid(count // len(slices), fsdp)
    # By process, not by `mesh_utils`' order of neighbours: there the rows of a batch would lie in another order than
    # the processes that read them, and another order for every number of processes.
    ordered = [sorted(group, key=lambda d: (d.process_index, d.id)) for _, group in sorted(slices.items())]
    grids = [np.array(group).reshape(grid) for group in ordered]
    # Auto: with the default type, Explicit, every device would silently do the whole batch.
    return Mesh(np.concatenate(grids), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def abstract_mesh(devices: int, fsdp: int = 1, slices: int = 1) -> AbstractMesh:
    """The shape of the mesh over so many devices that are not here; raises as `make_mesh`."""
    data, fsdp = _grid(devices // slices, fsdp)
    return AbstractMesh((slices * data, fsdp), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _grid(each: int, fsdp: int) -> tuple[int, int]:
    """(data, fsdp) of the devices of one slice."""
    if fsdp < 1 or each % fsdp:
        near = min((n for n in range(1, each + 1) if each % n == 0), key=lambda n: abs(n - fsdp))
        raise InputError(f"mesh.fsdp={fsdp} does not divide the {each} device(s) of a slice; nearest: {near}")
    return each // fsdp, fsdp


def check_batch(batch_size: int, mesh: Mesh | AbstractMesh, accumulate: int = 1) -> None:
    """Raises InputError where a batch does not split evenly over devices and accumulated microbatches."""
    parts = mesh.size * accumulate
    if batch_size < 1 or batch_size % parts:
        near = max(parts, round(batch_size / parts) * parts)
        raise InputError(
            f"batch size {batch_size} does not divide over {mesh.size} device(s) x {accumulate} microbatch(es);"
            f" the nearest that does is {near}"
        )


def spread(mesh: Mesh | AbstractMesh, shape: tuple[int, ...]) -> tuple:
    """Where no rule speaks: the longest dimension that 'fsdp' divides is split, the last of equals (the output's).

    Vectors and small leaves stay whole.
    """
    size = mesh.shape["fsdp"]
    fit = [i for i, length in enumerate(shape) if length % size == 0]
    if size == 1 or not fit or len(shape) < 2 or math.prod(shape) < SMALL:
        return ()
    longest = max(fit, key=lambda i: (shape[i], i))
    return (*(None,) * longest, "fsdp")


def shardings(mesh: Mesh | AbstractMesh, tree: Any, rules: Rules = ()) -> Any:
    """The NamedSharding of each leaf: that of the first rule that matches its name, else `spread` by its shape.

    A rule speaks of a parameter ('encoder/.*/kernel', (None, 'fsdp')) and holds wherever the parameter's name ends
    a path, so that moments and averages of the optimizer lie as their parameter does.

    Args:
      tree: a TrainState, or any pytree of arrays or ShapeDtypeStructs.

    Raises:
      InputError: what is no rule, or one that matches no leaf, names no axis, or does not fit the shape of its leaf.
    """
    _check_rules(rules)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    shapes = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}
    anywhere = [(f"(?:.*/)?(?:{pattern})", spec) for pattern, spec in rules]
    specs = flatten(match(anywhere, dict.fromkeys(shapes), where="mesh.rules"))
    for name, spec in specs.items():
        _check_spec(mesh, name, shapes[name], spec or ())
    placed = [NamedSharding(mesh, P(*(spread(mesh, shapes[n]) if specs[n] is None else specs[n]))) for n in shapes]
    return jax.tree.unflatten(jax.tree.structure(tree), placed)


def _check_rules(rules: Rules) -> None:
    kinds = (str, tuple | list)
    for rule in rules:
        pair = isinstance(rule, tuple | list) and len(rule) == 2
        if not pair or not all(isinstance(part, kind) for part, kind in zip(rule, kinds, strict=True)):
            raise InputError(f"mesh.rules has {rule!r}; a rule is ('regex', (axis or None of each dimension, ...))")


def _check_spec(mesh: Mesh | AbstractMesh, name: str, shape: tuple[int, ...], spec: tuple) -> None:
    if len(spec) > len(shape):
        raise InputError(f"mesh.rules: {spec} has {len(spec)} dimensions, and {name} has {len(shape)}: {shape}")
    if len(set(spec) - {None}) < len(spec) - list(spec).count(None):
        raise InputError(f"mesh.rules: {spec} splits two dimensions of {name} over one axis")
    for length, axis in zip(shape, spec, strict=False):
        if axis not in (None, *AXES):
            raise unknown("axis in mesh.rules", axis, AXES)
        if axis and length % mesh.shape[axis]:
            raise InputError(f"mesh.rules: {name} {shape} does not divide by {axis}={mesh.shape[axis]}")


def batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The leading axis of every array of a batch is split over all devices."""
    return NamedSharding(mesh, P(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, P())


def put(mesh: Mesh, host_batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """This process's rows [B/processes, ...] as its part of the global batch [B, ...], split over all devices."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in host_batch.items()}


def put_whole(mesh: Mesh, tree: Any) -> Any:
    """Numpy arrays that every process has, whole on every device; `jax.device_put` would send and compare them."""
    return jax.tree.map(lambda leaf: _lay_out(leaf, replicated(mesh)), tree)


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


def check_shared(folder: epath.PathLike) -> None:
    """Raises InputError where a process does not see what process 0 writes into a folder; all must call it.

    With a disk of each host's own, every save would wait for ever for the parts of the others.
    """
    if jax.process_count() == 1:
        return
    path = epath.Path(folder)
    probe = path / f".shared-{multihost_utils.broadcast_one_to_all(np.uint32(time.time_ns() % 2**32))}"
    if jax.process_index() == 0:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
    multihost_utils.sync_global_devices("probe written")
    seen = multihost_utils.process_allgather(np.array(probe.exists()))
    if jax.process_index() == 0:
        probe.unlink()
    if not seen.all():
        blind = ", ".join(map(str, np.flatnonzero(~seen)))
        raise InputError(f"{folder} is not one folder for all: process {blind} does not see what process 0 writes")


def gather(tree: Any) -> Any:
    """Arrays of any layout, whole, as numpy arrays on every process; all processes must call it."""
    return multihost_utils.process_allgather(tree, tiled=True)


def place(mesh: Mesh, make: Callable, *args: Any, rules: Rules = ()) -> Any:
    """`make(*args)`, computed by jit straight into the shardings of its result.

    Loaded weights and teachers belong in `args`: what `make` closes over is baked into the program. Under 'fsdp' they
    come in parts, so that a teacher never lies whole on one device.
    """
    out, layouts = shardings(mesh, jax.eval_shape(make, *args), rules), shardings(mesh, args)
    return jax.jit(make, in_shardings=layouts, out_shardings=out)(*jax.tree.map(_lay_out, args, layouts))


def _lay_out(leaf: Any, sharding: NamedSharding) -> Any:
    """A host's array as one of the mesh: `jit` itself splits none over several processes."""
    if not isinstance(leaf, np.ndarray):
        return leaf
    return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])


def jit_step(
    mesh: Mesh,
    objective: Objective,
    tx: optax.GradientTransformation,
    state: Tree,
    accumulate: int = 1,
    rules: Rules = (),
) -> Callable:
    """(state, batch, seed) -> (state, metrics) on this mesh; it takes over the buffers of the state it is given.

    Args:
      state: a TrainState, or its ShapeDtypeStructs, for the shardings.
    """
    here, whole = shardings(mesh, state, rules), replicated(mesh)

    # The seed is an argument, so that runs that differ in it alone share one entry of the compile cache.
    def step(state, batch, seed):
        return make_step(objective, tx, seed, accumulate)(state, batch)

    layouts = {"in_shardings": (here, batch_sharding(mesh), whole), "out_shardings": (here, whole)}
    return jax.jit(step, **layouts, donate_argnums=0)
