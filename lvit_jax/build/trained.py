"""The workdir of a classifier -> a function that evaluations and predictions call."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from lvit_jax.build.data import device_batches, load_data
from lvit_jax.build.parts import Config, image_shape, make_objective
from lvit_jax.data.folders import ALIASES, open_images
from lvit_jax.data.recipes import RECIPES, Example
from lvit_jax.data.source import Source
from lvit_jax.data.sources import open_source, source_splits
from lvit_jax.errors import InputError, unknown
from lvit_jax.evals.classify import make_classify
from lvit_jax.objectives import CLASSIFIERS
from lvit_jax.training import mesh as mesh_lib
from lvit_jax.training.checkpoint import load_params
from lvit_jax.training.record import read_record
from lvit_jax.types import Objective, TrainState, Tree

# What the config of an import lacks and a run's has: its weights came without data.
IMPORT = {
    "data": {"source": None, "data_dir": None, "train_split": "train", "eval_crop": 0.875, "resample": "exact"},
    "eval": {"batch_size": 64},
}


class Trained(NamedTuple):
    """A classifier from its workdir: a run or an import."""

    config: Config
    data: Config  # of the record: classes, mean, std
    classes: tuple[str, ...]
    objective: Objective
    params: Tree
    state: TrainState  # what predict may ask for beside the parameters


def load_trained(workdir: epath.PathLike, ema: bool = True) -> Trained:
    """The classifier of a workdir.

    Args:
      ema: take the averaged weights where the run keeps them.

    Raises:
      InputError: no such workdir, no checkpoint, or weights that are no classifier.
    """
    record = read_record(workdir)
    config = IMPORT | record["config"]
    name = (config["objective"] or {"name": "backbone"})["name"]
    if name not in CLASSIFIERS:
        raise InputError(f"{workdir} holds a {name!r}, not a classifier; fine-tune it first")
    params = load_params(workdir, ema)
    # An imported head may come without names, or a head may be larger than the data: numbers name the rest.
    names = record["data"]["classes"] or []
    names = [*names, *map(str, range(len(names), params["head"]["fc"]["bias"].shape[0]))]
    objective = make_objective(config, tuple(names), learns=False)
    state = TrainState(step=jnp.zeros((), jnp.int32), params={}, opt_state=(), frozen={}, extra={})
    params = jax.device_put(params, mesh_lib.replicated(mesh_lib.make_mesh()))  # once, not with every batch
    return Trained(config, record["data"], tuple(names), objective, params, state)


def evaluate_classifier(
    trained: Trained, source: str | None, split: str | None, data_dir: str | None, batch_size: int | None
) -> dict[str, Any]:
    """{'source', 'split', 'top1', 'top5', 'loss', 'examples'} on the run's validation split, or on another source.

    Args: source, split, data_dir, batch_size: None for the run's own.
    """
    chosen = choose_source(trained, source, split, data_dir)
    mesh = mesh_lib.make_mesh()
    size = trained.config["eval"]["batch_size"] if batch_size is None else batch_size
    mesh_lib.check_batch(size, mesh)
    mesh_lib.check_alike({"the images": chosen.fingerprint})
    batches = device_batches(chosen, transform(trained), size, mesh)
    figures = make_classify(trained.objective)(trained.params, trained.state, batches())
    return {"source": chosen.name, "split": chosen.split, **figures, "examples": int(figures["examples"])}


def choose_source(trained: Trained, source: str | None, split: str | None, data_dir: str | None) -> Source:
    """The split to evaluate on; labels of another source are numbered by the names of this model's classes."""
    own = trained.config["data"]
    if source is None and own["source"] is None:
        raise InputError("imported weights have no data of their own; name some with --source=")
    # The run's own source by name is its own source: what the run held out is not what it trained on.
    if source in (None, own["source"]) and split in (None, "val", "validation", own["train_split"]):
        return own_split(trained, train=split == own["train_split"])
    source, data_dir = source or own["source"], data_dir or own["data_dir"]
    splits = source_splits(source, data_dir)
    if split is None:
        named = [name for name in splits if ALIASES.get(name) == "validation"]
        split = (named or splits)[0]
        if not named and len(splits) > 1:
            raise InputError(f"{source!r} has no validation split; choose one with --split=: {', '.join(splits)}")
    if source == own["source"] and split.split("[")[0] not in splits:  # the run held validation images out itself
        raise unknown(f"split of {source!r}", split, {*splits, "validation"})
    return open_source(source, split, data_dir=data_dir, classes=trained.classes)


def own_split(trained: Trained, train: bool) -> Source:
    """The images that the run trained on, or those that it validated on."""
    own, data = trained.config["data"], load_data(trained.config)
    if data.held_out and data.record["fingerprint"] != trained.data["fingerprint"]:
        raise InputError(f"the images of {own['source']!r} have changed, so what the run held out is not known")
    if data.val is None and not train:
        raise InputError(f"the run's source {own['source']!r} has no validation split; name one with --split=")
    return data.train if train else data.val


def transform(trained: Trained) -> Example:
    """The evaluation transform that the model was trained to be judged by."""
    return RECIPES["eval"](**transform_fields(trained))


def transform_fields(trained: Trained) -> dict[str, Any]:
    """The fields of that transform."""
    height, width, channels = image_shape(trained.config["model"])
    own = trained.config["data"]
    return {
        "image_size": (height, width),
        "channels": channels,
        "mean": tuple(trained.data["mean"]),
        "std": tuple(trained.data["std"]),
        "eval_crop": trained.data["crop"] if "crop" in trained.data else own["eval_crop"],  # of an import, or of a run
        "resample": own["resample"],
    }


def predict_folder(
    trained: Trained, folder: str, batch_size: int, top: int
) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """(path below the folder, the `top` most probable (class, probability) pairs) for every readable image."""
    if top < 1:
        raise InputError(f"--top={top}; the least is 1")
    source, mesh = open_images(folder), mesh_lib.make_mesh()
    mesh_lib.check_batch(batch_size, mesh)
    top = min(top, len(trained.classes))

    @jax.jit
    def best(params, state, batch):
        probabilities = jax.nn.softmax(trained.objective.predict(params, state, batch)["logits"].astype(jnp.float32))
        return jax.lax.top_k(probabilities, top)

    names = source.ids()
    mesh_lib.check_alike({"the images": names})
    batches = device_batches(source, transform(trained), batch_size, mesh)
    for start, batch in zip(range(0, len(names), batch_size), batches(), strict=True):
        found = best(trained.params, trained.state, batch)
        values, classes, readable = mesh_lib.gather((*found, batch["mask"]))
        for row in np.flatnonzero(readable > 0):
            guesses = zip(classes[row], values[row], strict=True)
            yield names[start + row], [(trained.classes[c], float(p)) for c, p in guesses]
