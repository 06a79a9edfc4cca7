"""The `model` and `objective` sections of a config -> encoder and objective."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lvit_jax.data.recipes import VIEWS
from lvit_jax.errors import InputError, nearest
from lvit_jax.models import ENCODERS, KINDS
from lvit_jax.models.heads import classifier, distilled_classifier
from lvit_jax.objectives import (
    CLASSIFIERS,
    NEEDS_CLASSIFIER,
    NEEDS_ENCODER,
    NEEDS_TEACHER,
    OBJECTIVES,
    check_encoder,
)
from lvit_jax.training.record import UNTRAINED, read_record
from lvit_jax.types import Batch, Objective, Variables

Config = Mapping[str, Any]


def call(function: Callable, section: str, given: Config, **computed: Any) -> Any:
    """A config section as the keyword arguments of its function; a key that it does not take is one line."""
    taken = inspect.signature(function).parameters
    given = {key: value for key, value in given.items() if key in taken or key != "name"}
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        for key in given:
            if key not in taken:
                raise InputError(f"config section {section!r} has no key {key!r}{nearest(key, taken)}")
    return function(**{**given, **computed})


def encoder(model: Config) -> nn.Module:
    """The config's `model` section -> encoder, a linen module that returns Features."""
    make = named(KINDS[ENCODERS[model["name"]][0]].make)
    return call(make, "model", {key: value for key, value in model.items() if key != "image_size"}, name=model["name"])


def named(place: str) -> Callable:
    """'module:function' -> the function."""
    module, function = place.split(":")
    return getattr(importlib.import_module(module), function)


def image_shape(model: Config) -> tuple[int, int, int]:
    """(H, W, C) of the images of a model."""
    size = model["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    return height, width, model["channels"]


def example(config: Config) -> Batch:
    """A batch of one blank example, for shapes; a recipe of several views stacks them before the image's own axes."""
    views = VIEWS[config["data"]["recipe"]]
    image = jnp.zeros((1, *((views,) if views > 1 else ()), *image_shape(config["model"])))
    return {"image": image, "label": jnp.zeros((1,), jnp.int32)}


def count_steps(config: Config, examples: int) -> tuple[int, float]:
    """The steps of a run on so many examples, and those of an epoch.

    An epoch drops its last partial batch as in the papers; where the data are smaller than a batch, it is a fraction
    of a step and the run rounds once, at its end.
    """
    train, size = config["train"], config["train"]["batch_size"]
    per_epoch = examples // size if examples >= size else examples / size
    return train["steps"] or max(1, round(train["epochs"] * per_epoch)), per_epoch


def make_objective(
    config: Config,
    classes: tuple[str, ...] | None,
    teacher: Config | None = None,
    steps: int | None = None,
    learns: bool = True,
) -> Objective:
    """The config's `objective` section -> Objective, with its teacher's architecture where it takes one.

    Args:
      classes: names of the data's classes, None without labels.
      teacher: the config of a teacher that is yet to be trained; None: that of init.teacher's record.
      steps: of the run, for objectives whose schedules need them; None where nothing is trained.
      learns: False for a trained classifier, which predicts without its teacher.
    """
    section = config["objective"]
    check_encoder(section["name"], config["model"]["name"])
    make = named(OBJECTIVES[section["name"]].make)
    computed: dict[str, Any] = {"encoder": encoder(config["model"])}
    if "classes" in section:
        computed["classes"] = count_classes(section["classes"], classes)
    if section["name"] in NEEDS_ENCODER:
        computed |= _probed(config)
    if "steps" in inspect.signature(make).parameters:
        computed["steps"] = steps
    if section["name"] in NEEDS_TEACHER:
        computed["teacher"] = _teacher(config, teacher, computed.get("classes")) if learns else None
    elif learns and config["init"]["teacher"]:
        raise InputError(f"objective {section['name']!r} takes no teacher; unset init.teacher")
    return call(make, "objective", section, **computed)


def _probed(config: Config) -> dict[str, Any]:
    """What a probe computes of the encoder that `init.encoder` names: its module, and where its final norm stands."""
    name, place = config["model"]["name"], config["init"]["encoder"]
    module, cls = encoder(config["model"]), "cls" in KINDS[ENCODERS[name][0]].can
    record = read_record(place.removeprefix(UNTRAINED))["config"] if place else {"objective": None}
    section = record["objective"] or {"name": "backbone"}
    if section["name"] not in CLASSIFIERS:
        return {"encoder": module, "cls": cls}
    if section.get("token") == "own":
        module = module.clone(distill_token=True)
    norm = section.get("head_norm", True) and not section.get("expand") and not place.startswith(UNTRAINED)
    return {"encoder": module.clone(final_norm=False), "cls": cls, "norm": norm}


def _teacher(config: Config, teacher: Config | None, classes: int | None) -> nn.Module:
    """The teacher's encoder, or the whole classifier where the objective needs its answers."""
    theirs, name = teacher or read_record(need_teacher(config))["config"], config["objective"]["name"]
    # What it says is compared with what the student says, so it computes in the student's type.
    model = {key: value for key, value in theirs["model"].items() if key != "remat"}
    module = encoder({**model, "dtype": config["model"]["dtype"]})
    if name not in NEEDS_CLASSIFIER:
        check_encoder(name, theirs["model"]["name"], "a teacher")
        return module
    section = theirs["objective"] or {"name": "backbone"}
    if section["name"] not in CLASSIFIERS:
        raise InputError(f"objective {name!r} learns from a classifier, and the teacher is a {section['name']!r}")
    if (section["classes"] or classes) != classes:
        raise InputError(f"the teacher tells {section['classes']} classes apart, and this run {classes}")
    if section["name"] == "classify":
        return classifier(module, classes, section["pool"], norm=section.get("head_norm", True))
    own, expand = section["token"] == "own", section["expand"]
    return distilled_classifier(module, classes, section["pool"], own_token=own, expand=expand).clone(averaged=True)


def need_teacher(config: Config) -> str:
    """The workdir of the teacher; no path distils from a randomly initialised one."""
    if not config["init"]["teacher"]:
        raise InputError(f"objective {config['objective']['name']!r} needs --config.init.teacher=WORKDIR")
    return config["init"]["teacher"]


def need_encoder(config: Config) -> str:
    """The workdir of the frozen encoder; no path probes a randomly initialised one without being asked to."""
    if not config["init"]["encoder"]:
        raise InputError(f"objective {config['objective']['name']!r} needs --config.init.encoder=WORKDIR")
    return config["init"]["encoder"]


def count_classes(stated: int | None, names: tuple[str, ...] | None) -> int:
    """The size of the head: what the config states, if the data has no more labels than that; else the data's."""
    if names is None:
        raise InputError("classification needs labels, and this source has none")
    if stated is not None and stated < len(names):
        raise InputError(f"objective.classes={stated}, but the data has {len(names)} classes; use {len(names)}")
    return stated or len(names)


def shapes(objective: Objective, config: Config) -> Variables:
    """The variables of an objective as ShapeDtypeStructs."""
    return jax.eval_shape(objective.init, jax.random.key(0), example(config))
