"""The `init` section of a config -> the weights a run starts from and the teacher it learns from."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lvit_jax.build.parts import Config, encoder, image_shape
from lvit_jax.errors import InputError
from lvit_jax.models.positions import resample
from lvit_jax.training.checkpoint import load_into, load_params, tree_hash
from lvit_jax.training.record import read_record
from lvit_jax.types import Tree, Variables


class Weights(NamedTuple):
    """What a run starts from: parts of its trees as numpy arrays, and hashes of the files they came from."""

    params: Tree
    frozen: Tree
    hashes: dict[str, str]


def load_weights(config: Config, abstract: Variables) -> Weights:
    """The encoder and the teacher that `init` names, cut to what this run takes.

    Raises:
      InputError: weights that do not fit, that a rule of `init` does not allow to drop or to leave fresh, or whose
        head count is another than this model's.
    """
    init, params, frozen, hashes = config["init"], {}, {}, {}
    if init["encoder"]:
        record = read_record(init["encoder"])
        check_heads(config, record)
        source = load_params(init["encoder"])
        params = load_into(
            abstract.params,
            source,
            fresh=init["fresh"],
            dropped=init["dropped"],
            resize=resizer(record["config"]["model"], config["model"]),
        )
        hashes["encoder"] = tree_hash(source)
    if "teacher" in abstract.frozen:
        source = load_params(init["teacher"])["encoder"]
        teacher = read_record(init["teacher"])["config"]["model"]
        resize = resizer(teacher, config["model"])
        frozen = load_into(abstract.frozen, {"teacher": source}, resize=resize)
        hashes["teacher"] = tree_hash(source)
    return Weights(params, frozen, hashes)


def resizer(source: Config, target: Config) -> Callable[[np.ndarray, tuple[int, ...]], np.ndarray]:
    """Position embeddings of the source's grid -> the target's."""

    def grid(model):
        return tuple(side // model["patch_size"] for side in image_shape(model)[:2])

    return lambda table, shape: np.asarray(resample(table, grid(target), grid(source)))


def check_heads(config: Config, record: Config) -> None:
    """Loading across head counts fits in shape and silently computes something else: it must be asked for."""
    here, there = encoder(config["model"]).heads, encoder(record["config"]["model"]).heads
    if there not in (here, config["init"]["heads_from"]):
        raise InputError(
            f"{config['init']['encoder']} has {there} heads and this model {here}; "
            f"set --config.model.heads={there}, or --config.init.heads_from={there} to load across"
        )
