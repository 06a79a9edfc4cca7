"""Checkpoints: saved in the background, read back onto any mesh, whole or in part. The only importer of orbax."""

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from lvit_jax.errors import InputError, Stopped
from lvit_jax.training.optim import averaged, with_average
from lvit_jax.training.report import say
from lvit_jax.training.seal import Damaged, cause_of, check_seal, is_damage, seal
from lvit_jax.tree import flatten, matches, unflatten
from lvit_jax.types import TrainState, Tree

RESIZED = ("pos_embed", "relative_position_bias_table")  # last names of parameters that have a length per grid

Value = TypeVar("Value")


class Checkpoints:
    """The checkpoints of a run, workdir/checkpoints/<step>; use as a context manager: leaving it waits for saves.

    Each holds the items `params`, `average` (where the run averages its weights) and `rest` (step, opt_state, extra);
    `frozen` is never saved. Items of their own let `load_params` read the weights and nothing else.

    A thread seals each checkpoint as soon as it is committed. One killed in that moment stays without a seal: what is
    truncated in it afterwards is still told where loading reads it, by the errors of the load.
    """

    def __init__(self, workdir: epath.PathLike, keep: int):
        """Args: keep: how many of the latest checkpoints stay."""
        self._folder, self._pending = folder(workdir), None
        self._saver = ocp.training.Checkpointer(
            self._folder,
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )
        self._sealer = ThreadPoolExecutor(1)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        try:
            self._finish()
        finally:
            self._sealer.shutdown()
            self._saver.close()

    def save(self, step: int, state: TrainState) -> None:
        """Starts a save and returns once the arrays are copied to the host: the state may then be donated."""
        self._finish()
        response = self._saver.save_checkpointables_async(step, _items(state), force=True)
        self._pending = self._sealer.submit(_commit, response, self._folder / str(step))

    def _finish(self) -> None:
        """Waits for the save under way, and raises what went wrong in it."""
        pending, self._pending = self._pending, None
        if pending:
            pending.result()


def _commit(response: Any, path: epath.Path) -> None:
    response.result()
    seal(path)


def _items(state: TrainState) -> dict[str, Tree]:
    """A state as checkpoint items; the average moves out of opt_state, so that its bytes are there once."""
    average = averaged(state.opt_state)
    rest = {"step": state.step, "opt_state": with_average(state.opt_state, ()), "extra": state.extra}
    items = {"params": state.params, "rest": rest}
    return items if average is None else items | {"average": average}


def _from_items(items: Mapping[str, Tree], state: TrainState) -> TrainState:
    """The inverse of `_items`; `frozen` comes from `state`."""
    rest = items["rest"]
    opt_state = with_average(rest["opt_state"], items.get("average"))
    return state.replace(step=rest["step"], params=items["params"], opt_state=opt_state, extra=rest["extra"])


def folder(workdir: epath.PathLike) -> epath.Path:
    """Where the checkpoints of a workdir lie, as an absolute path: orbax wants no other."""
    path = epath.Path(workdir)
    return (path if "://" in str(path) else path.absolute()) / "checkpoints"


def steps(workdir: epath.PathLike) -> list[int]:
    """The steps of the checkpoints of a workdir, latest first (saves that never finished are not among them)."""
    place = folder(workdir)
    if not place.exists():
        return []
    return sorted((int(path.name) for path in place.iterdir() if path.name.isdigit()), reverse=True)


def restore(workdir: epath.PathLike, state: TrainState) -> TrainState:
    """The latest readable checkpoint, laid out as `state` (on its mesh, with its `frozen`); without any, `state`.

    Truncated checkpoints that are newer than it are set aside in workdir/unreadable, and it says so. Every other error
    is raised and leaves the folder as it is.

    Raises:
      InputError: a checkpoint whose arrays have other names or shapes than the state's.
      Stopped: there are checkpoints, and none of them is readable.
    """
    if jax.process_count() > 1:
        return _restore_together(workdir, state)
    restored, damaged = _latest(workdir, lambda path: _load(path, state))
    if restored is None and damaged:
        place = folder(workdir)
        raise Stopped(f"{workdir}: no checkpoint is readable; move {place} away to start anew")
    if restored is None:
        return state
    for path in damaged:
        _set_aside(path)
    return restored


def _restore_together(workdir: epath.PathLike, state: TrainState) -> TrainState:
    """Process 0 finds the latest checkpoint whose files are whole, and all load that one, or all fail."""
    chosen, damaged = None, []
    if jax.process_index() == 0:
        chosen, damaged = _latest(workdir, _whole)
        for path in () if chosen is None else damaged:
            _set_aside(path)
    answer = multihost_utils.broadcast_one_to_all(np.array([-1 if chosen is None else chosen, len(damaged)]))
    chosen, damaged = map(int, answer)
    if chosen < 0 and damaged:
        raise Stopped(f"{workdir}: no checkpoint is readable; move {folder(workdir)} away to start anew")
    return state if chosen < 0 else _load(folder(workdir) / str(chosen), state)


def _whole(path: epath.Path) -> int:
    """The step of a checkpoint whose files have the sizes of its seal."""
    check_seal(path)
    _metadata(path, "params", "rest")
    return int(path.name)


def _latest(workdir: epath.PathLike, read: Callable[[epath.Path], Value]) -> tuple[Value | None, list[epath.Path]]:
    """`read` of the latest checkpoint that is not damaged, or None, and the damaged ones that are newer."""
    damaged: list[epath.Path] = []
    for step in steps(workdir):
        path = folder(workdir) / str(step)
        try:
            return read(path), damaged
        except Exception as error:  # orbax raises them all alike; what is no damage goes on
            cause = cause_of(error)
            if not is_damage(cause):
                raise
            reason = f"{type(cause).__name__}: {' '.join(str(cause).split())[:120]}"
            say(f"checkpoint {step} of {workdir} cannot be read ({reason}); falling back to the one before")
            damaged.append(path)
    return None, damaged


def _load(path: epath.Path, state: TrainState) -> TrainState:
    check_seal(path)
    _check_shapes(path, state)
    return _from_items(ocp.load_checkpointables(path, jax.tree.map(_abstract, _items(state))), state)


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _check_shapes(path: epath.Path, state: TrainState) -> None:
    """A checkpoint of another model or optimizer is the user's mistake, not a truncated file to fall back from."""
    metadata, items = _metadata(path, "params", "rest"), _items(state)
    for item in items | metadata:
        if metadata.get(item, {}) is None:
            continue  # orbax could not read it and keeps the reason to itself: the load will tell
        saved, wanted = (_shapes(tree.get(item, {})) for tree in (metadata, items))
        for name in wanted | saved:
            there, here = (shapes.get(name, "absent") for shapes in (saved, wanted))
            if there != here:
                differs = f"{item}/{name} is {there} there and {here} here"
                raise InputError(f"{path} was saved with another model or optimizer: {differs}")


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    """Shapes by name, optimizer states included: orbax keeps their tuples as lists, and the names are the same."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}


def _metadata(path: epath.Path, *needed: str) -> Mapping[str, Tree]:
    saved = ocp.checkpointables_metadata(path).metadata
    for item in needed:
        if item not in saved:
            raise Damaged(f"{item} is gone")
    return saved


def _set_aside(path: epath.Path) -> None:
    """Moves a broken checkpoint away: its step will be saved again, and it must not count among those kept."""
    aside = path.parent.parent / "unreadable"
    aside.mkdir(parents=True, exist_ok=True)
    path.rename(_unused(aside / path.name))


def _unused(path: epath.Path) -> epath.Path:
    return path if not path.exists() else _unused(path.with_name(path.name + "_"))


def load_params(workdir: epath.PathLike, ema: bool = True) -> Tree:
    """The trained parameters of a run or an import as numpy arrays, {'encoder': ...}; nothing else is read.

    Args:
      ema: take the averaged weights where the run keeps them.

    Raises:
      InputError: a folder without a readable checkpoint.
    """
    params, damaged = _latest(workdir, lambda path: _load_params(path, ema))
    if params is None:
        raise InputError(f"{workdir} has no {'readable ' if damaged else ''}checkpoint")
    return params


def _load_params(path: epath.Path, ema: bool) -> Tree:
    check_seal(path)
    saved = _metadata(path, "params")
    item = "average" if ema and "average" in saved else "params"
    # None where orbax could not read the metadata: then the load is as saved, and most likely tells why.
    target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), saved[item])
    return jax.tree.map(np.asarray, ocp.load_checkpointables(path, {item: target})[item])


def save_params(workdir: epath.PathLike, params: Tree) -> None:
    """Writes imported weights as workdir/checkpoints/0, in the layout of a run's, with `params` only."""
    path = folder(workdir) / "0"
    ocp.save_checkpointables(path, {"params": params})
    seal(path)


def load_into(
    target: Tree,
    source: Tree,
    *,
    fresh: Sequence[str] = (),
    dropped: Sequence[str] = (),
    rename: Sequence[tuple[str, str]] = (),
    resize: Callable[[str, np.ndarray, tuple[int, ...]], np.ndarray] | None = None,
) -> Tree:
    """The leaves of `source` under the names of `target`: what `make_init` takes as loaded parameters.

    Args:
      target: the model's parameters or their ShapeDtypeStructs.
      source: loaded parameters, numpy.
      fresh: regexes on target names that may (and, where the source has none, will) keep their fresh value.
      dropped: regexes on source names that are not used; what `rename` moves is used all the same.
      rename: (regex on a whole source name, replacement as in re.sub) pairs; the first that matches counts.
      resize: (name, array, shape) -> array, for what depends on the grid (`RESIZED`) and has another length.

    Returns:
      A part of `target`: the leaves left fresh are absent.

    Raises:
      InputError: a target leaf without a source that no `fresh` rule allows, a source leaf without a place that no
        `dropped` rule allows, or two shapes that differ: naming the first, in the order of the trees.
    """
    wanted = flatten(target)
    renamed = {name: _renamed(name, rename) for name in flatten(source)}
    kept = {name: leaf for name, leaf in flatten(source).items() if renamed[name] != name or not matches(dropped, name)}
    offered = {renamed[name]: leaf for name, leaf in kept.items()}
    for name in wanted:
        if name not in offered and not matches(fresh, name):
            raise InputError(f"parameter {name} is not in the loaded weights, and no rule allows it to stay fresh")
    for name in offered:
        if name not in wanted:
            raise InputError(f"loaded parameter {name} has no place in this model, and no rule allows to drop it")
    return unflatten({name: _fit(name, leaf, wanted[name].shape, resize) for name, leaf in offered.items()})


def _renamed(name: str, rename: Sequence[tuple[str, str]]) -> str:
    return next((re.sub(old, new, name) for old, new in rename if re.fullmatch(old, name)), name)


def _fit(name: str, leaf: np.ndarray, shape: tuple[int, ...], resize: Callable | None) -> np.ndarray:
    if leaf.shape == shape:
        return leaf
    if resize and name.endswith(RESIZED) and leaf.shape[-1] == shape[-1]:
        return resize(name, leaf, shape)
    raise InputError(f"parameter {name} is {tuple(leaf.shape)} in the loaded weights and {tuple(shape)} in this model")
