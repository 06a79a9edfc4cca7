"""Checkpoints: saved in the background, read back onto any mesh, whole or in part. The only importer of orbax."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from lvit_jax.errors import InputError
from lvit_jax.training.optim import averaged, with_average
from lvit_jax.training.report import say
from lvit_jax.tree import flatten, matches, unflatten
from lvit_jax.types import TrainState, Tree

SEAL = "sizes.json"


class Checkpoints:
    """The checkpoints of a run, workdir/checkpoints/<step>; use as a context manager: leaving it waits for saves.

    Each holds the items `params`, `average` (where the run averages its weights) and `rest` (step, opt_state, extra);
    `frozen` is never saved. Items of their own let `load_params` read the weights and nothing else.
    """

    def __init__(self, workdir: epath.PathLike, keep: int):
        """Args: keep: how many of the latest checkpoints stay."""
        self._folder, self._pending = folder(workdir), None
        self._saver = ocp.training.Checkpointer(
            self._folder,
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        try:
            self._finish()
        finally:
            self._saver.close()

    def save(self, step: int, state: TrainState) -> None:
        """Starts a save and returns once the arrays are copied to the host: the state may then be donated."""
        self._finish()
        self._pending = (step, self._saver.save_checkpointables_async(step, _items(state), force=True))

    def _finish(self) -> None:
        if self._pending:
            (step, response), self._pending = self._pending, None
            response.result()
            _seal(self._folder / str(step))


def _seal(path: epath.Path) -> None:
    """Notes the sizes of a finished checkpoint's files: a truncated one is told by them, not by trying to load it."""
    if jax.process_index() == 0:
        sizes = {str(file.relative_to(path)): file.stat().length for file in _files(path)}
        (path / SEAL).write_text(json.dumps(sizes))


def _files(place: epath.Path) -> Iterator[epath.Path]:
    for path in place.iterdir():
        yield from _files(path) if path.is_dir() else [path]


def _check_seal(path: epath.Path) -> None:
    """Raises OSError where a file of a checkpoint is not what it was (one killed before its seal goes unchecked)."""
    if not (path / SEAL).exists():
        return
    for name, size in json.loads((path / SEAL).read_text()).items():
        if (path / name).stat().length != size:
            raise OSError(f"{name} is truncated")


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
    """The latest readable checkpoint, laid out as `state` (on its mesh, with its `frozen`); without one, `state`.

    Checkpoints that cannot be read are set aside in workdir/unreadable, and it says so.

    Raises:
      InputError: a checkpoint whose arrays have other names or shapes than the state's.
    """
    found = steps(workdir)
    for step in found:
        path = folder(workdir) / str(step)
        try:
            _check_seal(path)
            _check_shapes(path, state)
            target = jax.tree.map(_abstract, _items(state))
            return _from_items(ocp.load_checkpointables(path, target), state)
        except InputError:
            raise
        except Exception as error:  # whatever the readers of a broken file may raise
            _set_aside(path, error)
    if found:
        say(f"{workdir}: no checkpoint can be read, starting from the beginning")
    return state


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _check_shapes(path: epath.Path, state: TrainState) -> None:
    """A checkpoint of another model is the user's mistake, not a truncated file to fall back from."""
    saved, wanted = flatten(_metadata(path)["params"]), flatten(state.params)
    for name in saved.keys() | wanted.keys():
        shapes = [tree[name].shape if name in tree else None for tree in (saved, wanted)]
        if shapes[0] != shapes[1]:
            raise InputError(f"{path} holds another model: {name} is {shapes[0]} there and {shapes[1]} here")


def _metadata(path: epath.Path) -> Mapping[str, Tree]:
    return ocp.checkpointables_metadata(path).metadata


def _set_aside(path: epath.Path, error: Exception) -> None:
    """Moves a broken checkpoint away: its step will be saved again, and it must not count among those kept."""
    reason = (str(error).splitlines() or [""])[0][:120]
    say(f"checkpoint {path.name} cannot be read ({type(error).__name__}: {reason}); falling back to the one before")
    if jax.process_index() == 0:
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
    found = steps(workdir)
    for step in found:
        path = folder(workdir) / str(step)
        try:
            _check_seal(path)
            saved = _metadata(path)
            item = "average" if ema and "average" in saved else "params"
            target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), saved[item])
            return ocp.load_checkpointables(path, {item: target})[item]
        except Exception as error:  # as in `restore`, but the folder is not ours to tidy
            say(f"checkpoint {path} cannot be read ({type(error).__name__}); trying the one before")
    raise InputError(f"{workdir} has no {'readable ' if found else ''}checkpoint")


def save_params(workdir: epath.PathLike, params: Tree) -> None:
    """Writes imported weights as workdir/checkpoints/0, in the layout of a run's, with `params` only."""
    path = folder(workdir) / "0"
    ocp.save_checkpointables(path, {"params": params})
    _seal(path)


def load_into(
    target: Tree,
    source: Tree,
    *,
    fresh: Sequence[str] = (),
    dropped: Sequence[str] = (),
    rename: Sequence[tuple[str, str]] = (),
    resize: Callable[[np.ndarray, tuple[int, ...]], np.ndarray] | None = None,
) -> Tree:
    """The leaves of `source` under the names of `target`: what `make_init` takes as loaded parameters.

    Args:
      target: the model's parameters or their ShapeDtypeStructs.
      source: loaded parameters, numpy.
      fresh: regexes on target names that may (and, where the source has none, will) keep their fresh value.
      dropped: regexes on source names that are not used; what `rename` moves is used all the same.
      rename: (regex on a whole source name, replacement as in re.sub) pairs; the first that matches counts.
      resize: (array, shape) -> array, for position embeddings ('.../pos_embed') of another length.

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
    if resize and name.endswith("pos_embed") and leaf.shape[-1] == shape[-1]:
        return resize(leaf, shape)
    raise InputError(f"parameter {name} is {tuple(leaf.shape)} in the loaded weights and {tuple(shape)} in this model")


def tree_hash(tree: Tree) -> str:
    """A hash of the names, shapes, types and bytes of the leaves, whatever their order."""
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten(tree).items()):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{name} {array.shape} {array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]
