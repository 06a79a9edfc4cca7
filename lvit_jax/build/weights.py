"""The `init` section of a config -> the weights a run starts from and the teacher it learns from."""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
from etils import epath

from lvit_jax.build.backbone import load_backbone, warn_of_inner_norm
from lvit_jax.build.parts import Config, encoder, image_shape, need_encoder
from lvit_jax.errors import InputError
from lvit_jax.models import ENCODERS
from lvit_jax.models.positions import FIXED, resample
from lvit_jax.models.relative import resample_bias
from lvit_jax.objectives import NEEDS_ENCODER
from lvit_jax.training.checkpoint import load_into, load_params, steps
from lvit_jax.training.record import UNTRAINED, read_record
from lvit_jax.tree import flatten, tree_hash
from lvit_jax.types import Tree, Variables

log = logging.getLogger(__name__)
# kind -> the kinds whose weights it starts from, where these are not its own alone.
STARTS_FROM = {"vit_rpe": ("vit", "vit_rpe")}


class Weights(NamedTuple):
    """What a run starts from: parts of its trees as numpy arrays, and hashes of the files they came from."""

    params: Tree
    frozen: Tree
    hashes: dict[str, str]


def load_weights(config: Config, abstract: Variables, data: Config, recorded: dict[str, str]) -> Weights:
    """The encoder and the teacher that `init` names, cut to what this run takes.

    Args:
      abstract: the run's variables as ShapeDtypeStructs.
      data: the record of this run's data: mean and std.
      recorded: hashes of a run that is being resumed: its encoder is in its checkpoints and may be gone elsewhere.

    Raises:
      InputError: weights that do not fit, that a rule of `init` does not allow to drop or to leave fresh, or whose
        heads, ε or (for teachers) pixel statistics are others than this run's.
    """
    init, params, frozen, hashes = config["init"], {}, {}, {}
    if config["objective"]["name"] in NEEDS_ENCODER:  # which is in no checkpoint of this run
        frozen, hashes["encoder"] = _load_frozen(config, abstract.frozen, data)
        return Weights(params, frozen, hashes)
    if init["encoder"] and "encoder" in recorded and not (epath.Path(init["encoder"]) / "config.json").exists():
        log.info("%s is gone; resuming from this run's own checkpoints", init["encoder"])
        hashes["encoder"] = recorded["encoder"]
    elif init["encoder"]:
        params, hashes["encoder"] = _load_encoder(config, abstract.params, data)
    if "teacher" in abstract.frozen:
        frozen, hashes["teacher"] = _load_teacher(config, abstract.frozen, data)
    return Weights(params, frozen, hashes)


def _load_encoder(config: Config, target: Tree, data: Config) -> tuple[Tree, str]:
    """Loaded leaves of `target`, and the hash of the file they came from."""
    init = config["init"]
    check_model(config, read_record(init["encoder"]))
    source, record = _load(init["encoder"])
    objective = record["config"]["objective"] or {"name": "backbone"}
    # CLS pooling goes on with the final norm of pre-training (not with D²'s, which belongs to an inner block).
    cls = config["objective"].get("pool") == "cls" and objective["name"] != "d2" and "norm" in target["head"]
    theirs = record["config"]["model"]
    loaded = load_into(
        target,
        with_positions(source, theirs, config["model"], target),
        fresh=init["fresh"],
        dropped=init["dropped"],
        rename=((r"encoder/norm/(.*)", r"head/norm/\1"),) if cls else (),
        resize=resizer(theirs, config["model"]),
    )
    _warn_of_statistics(init["encoder"], record["data"], data)
    return loaded, tree_hash(source)


def _load_frozen(config: Config, target: Tree, data: Config) -> tuple[Tree, str]:
    """All leaves of `target`, {"encoder"} and perhaps its classifier's {"norm"}, and the hash of what was loaded."""
    place = need_encoder(config)
    record = read_record(place.removeprefix(UNTRAINED))
    check_model(config, record)
    source = jax.device_get(load_backbone(place).params)
    resize = resizer(record["config"]["model"], config["model"])
    loaded = load_into(target, source, dropped=("encoder/mask_token",), resize=resize)
    _warn_of_statistics(place, record["data"], data)
    return loaded, tree_hash(source)


def _warn_of_statistics(source: str, theirs: Config, ours: Config) -> None:
    if any(list(theirs[key]) != list(ours[key]) for key in ("mean", "std")):
        log.warning("%s saw pixels of other statistics than data.statistics here", source)


def _load_teacher(config: Config, target: Tree, data: Config) -> tuple[Tree, str]:
    """All leaves of `target`, {"teacher": an encoder, or a classifier's encoder and head}, and the file's hash."""
    source, record = _load(config["init"]["teacher"])
    check_statistics(config["init"]["teacher"], record["data"], data)
    warn_of_inner_norm(config["init"]["teacher"], record)
    theirs = record["config"]["model"]
    given = source["encoder"]
    if "head" in target["teacher"]:
        check_classes(config["init"]["teacher"], record["data"]["classes"], data["classes"])
        given = {part: source[part] for part in target["teacher"]}
    elif "mask_token" not in target["teacher"]:  # of SimMIM, where the teacher sees whole or partial images
        given = {name: leaf for name, leaf in given.items() if name != "mask_token"}
    resize = resizer(theirs, {**theirs, "image_size": config["model"]["image_size"]})
    return load_into(target, {"teacher": given}, resize=resize), tree_hash(given)


def _load(workdir: str) -> tuple[Tree, Config]:
    """Weights and record of a workdir; says so where its run is not finished."""
    record = read_record(workdir)
    source, found = load_params(workdir), steps(workdir)[0]
    if found < record.get("steps", 0):
        log.warning("%s is not finished: its weights are those of step %d of %d", workdir, found, record["steps"])
    return source, record


def with_positions(source: Tree, theirs: Config, ours: Config, target: Tree) -> Tree:
    """`source` with its fixed table as a leaf, for the grid of a target that learns its positions.

    Only where the table is not MAE's: that is what learned positions start from anyway.
    """
    layout = theirs.get("positions", "sincos")
    if layout not in FIXED or layout == "sincos" or "encoder/pos_embed" not in flatten(target):
        return source
    table = FIXED[layout](encoder(ours).width, encoder(ours).position_grid(*image_shape(ours)[:2]))[None]
    return {**source, "encoder": {**source["encoder"], "pos_embed": table}}


def resizer(source: Config, target: Config) -> Callable[[str, np.ndarray, tuple[int, ...]], np.ndarray]:
    """Position embeddings [1,P+N,D] and relative-position tables [R,H] of the source's grid -> the target's."""

    def grid(model, name):
        module, (height, width) = encoder(model), image_shape(model)[:2]
        if name.startswith("decoder/"):  # of the patches that are predicted: a Hiera's encoder has smaller ones
            return height // module.patch_size, width // module.patch_size
        return module.position_grid(height, width)

    def resize(name, table, shape):
        here, there = grid(target, name), grid(source, name)
        if len(shape) == 2:
            return resample_bias(table, here, there)
        return np.asarray(resample(table, here, there, encoder(source).prefix))

    return resize


def check_model(config: Config, record: Config) -> None:
    """Another head count, ε or layout of positions fits in shape and silently computes something else."""
    source, theirs = config["init"]["encoder"], record["config"]["model"]
    kinds = [ENCODERS[model["name"]][0] for model in (theirs, config["model"])]
    if kinds[0] not in STARTS_FROM.get(kinds[1], (kinds[1],)):
        raise InputError(
            f"{source} holds a {kinds[0]} ({theirs['name']!r}) and this model is a {kinds[1]} "
            f"({config['model']['name']!r}), which starts from: {', '.join(STARTS_FROM.get(kinds[1], (kinds[1],)))}"
        )
    here, there = encoder(config["model"]), encoder(theirs)
    if _heads(there) != _heads(here) and there.heads != config["init"]["heads_from"]:
        same = there.heads == here.heads
        remedy = "" if same else f"set --config.model.heads={there.heads}, or "
        raise InputError(
            f"{source} has {_heads(there)} heads and this model {_heads(here)}; "
            f"{remedy}{'set ' if same else ''}--config.init.heads_from={there.heads} to load across"
        )
    if there.norm_eps != here.norm_eps:
        raise InputError(
            f"{source} has LayerNorms of ε {there.norm_eps} and this model of {here.norm_eps}; "
            f"set --config.model.norm_eps={there.norm_eps}"
        )
    layouts = [getattr(model, "positions", None) for model in (there, here)]
    if layouts[0] != layouts[1] and set(layouts) <= set(FIXED):
        raise InputError(
            f"{source} has positions {layouts[0]!r} and this model {layouts[1]!r}; "
            f"set --config.model.positions={layouts[0]}, or learned"
        )


def _heads(model: nn.Module) -> str:
    """Heads of all blocks in words: a TinyMIM student's last block has others than the rest."""
    last = getattr(model, "last_heads", None) or model.heads
    return str(model.heads) if last == model.heads else f"{model.heads} (in the last block {last})"


def check_statistics(teacher: str, theirs: Config, ours: Config) -> None:
    """A teacher must see pixels normalised as in its own training."""
    for key in ("mean", "std"):
        if not np.allclose(theirs[key], ours[key], atol=1e-4):
            raise InputError(
                f"teacher {teacher} was trained on pixels of {key} {theirs[key]}, this run has {ours[key]}; "
                f"set --config.data.statistics"
            )


def check_classes(teacher: str, theirs: Sequence[str] | None, ours: Sequence[str]) -> None:
    """A classifier that teaches must number the classes as this run does; files of weights may not name them."""
    for number, (name, own) in enumerate(zip(theirs or ours, ours, strict=False)):
        if name != own:
            raise InputError(f"class {number} of teacher {teacher} is {name!r}, and of this run {own!r}")
