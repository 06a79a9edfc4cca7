"""Config -> Run: the only file that knows both the names in a config and the objects behind them."""

import importlib
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from lvit_jax.data import pipeline
from lvit_jax.data.sources import Data, open_data
from lvit_jax.errors import InputError, nearest
from lvit_jax.evals.classify import make_classify
from lvit_jax.evals.reconstruct import make_reconstruct
from lvit_jax.models.positions import resample
from lvit_jax.models.vit import ViT, vit
from lvit_jax.objectives import NEEDS_TEACHER, OBJECTIVES
from lvit_jax.training import mesh as mesh_lib
from lvit_jax.training.checkpoint import load_into, load_params, tree_hash
from lvit_jax.training.loop import Run
from lvit_jax.training.optim import averaged, make_tx
from lvit_jax.training.record import compare_configs, read_record
from lvit_jax.training.step import make_init
from lvit_jax.types import Batch, Eval, Objective, TrainState, Tree, Variables

Config = Mapping[str, Any]
log = logging.getLogger(__name__)


class Weights(NamedTuple):
    """What a run starts from: parts of its trees as numpy arrays, and hashes of the files they came from."""

    params: Tree
    frozen: Tree
    hashes: dict[str, str]


def run(config: Config, workdir: epath.PathLike) -> tuple[Run, dict[str, Any]]:
    """A config as a Run, and the record for its workdir; compiles nothing and writes nothing.

    Raises:
      InputError: for everything that can be wrong before the first compile: names, shapes, data, devices, weights,
        a workdir that holds another run.
    """
    size, accumulate = config["train"]["batch_size"], config["train"]["accumulate"]
    mesh = mesh_lib.make_mesh(config["mesh"]["devices"])
    mesh_lib.check_batch(size, mesh, accumulate)
    mesh_lib.check_batch(config["eval"]["batch_size"], mesh)
    data = load_data(config)
    objective = make_objective(config, data.train.classes)
    abstract = shapes(objective, config)
    weights = load_weights(config, abstract)
    record = make_record(config, data, weights.hashes)
    check_workdir(workdir, record)
    steps = count_steps(config["train"], data.train.size)
    tx, schedule = call(
        make_tx,
        "optim",
        config["optim"],
        params=abstract.params,
        steps=steps,
        steps_per_epoch=data.train.size / size,
        batch_size=size,
        depth=encoder(config["model"]).depth,
    )

    def init() -> TrainState:
        start = make_init(objective, tx)
        key = jax.random.key(config["seed"])
        return mesh_lib.place(mesh, start, key, example(config), weights.params, weights.frozen)

    return Run(
        objective=objective,
        tx=tx,
        schedule=schedule,
        batches=make_batches(config, data),
        evals=make_evals(config, objective, mesh, data, steps),
        mesh=mesh,
        init=init,
        workdir=workdir,
        steps=steps,
        seed=config["seed"],
        batch_size=size,
        accumulate=accumulate,
        save_every=config["checkpoint"]["every_steps"],
        keep=config["checkpoint"]["keep"],
        log_every=config["log"]["every_steps"],
        tensorboard=config["log"]["tensorboard"],
        profile=config["log"]["profile"],
    ), record


def load_data(config: Config) -> Data:
    """The config's `data` section -> Data; labels are needed where the objective counts classes."""
    height, width, channels = image_shape(config["model"])
    labels = "classes" in config["objective"]
    return call(open_data, "data", config["data"], image_size=(height, width), channels=channels, labels=labels)


def make_batches(config: Config, data: Data) -> Callable:
    """batches(step) -> this process's rows of the training batches from that step on."""
    return pipeline.train_batches(
        data.train,
        data.augment,
        batch_size=config["train"]["batch_size"],
        seed=config["seed"],
        max_broken=data.max_broken,
        threads=data.threads,
        **mesh_lib.this_process(),
    )


def make_evals(config: Config, objective: Objective, mesh: jax.sharding.Mesh, data: Data, steps: int) -> tuple:
    """What is measured during the run: accuracy of a classifier, reconstructions of a masked autoencoder."""
    size = config["eval"]["batch_size"]
    every = max(1, round(config["eval"]["every_epochs"] * data.train.size / config["train"]["batch_size"]))
    labels = "classes" in config["objective"]
    if data.val is None and labels:
        return ()
    # Without validation images, a look at training images still shows whether reconstructions improve.
    source = data.val or data.train.take(np.arange(min(size, data.train.size)))
    batches = eval_batches(source, data, size, mesh)
    if labels:
        measure = make_classify(objective)
    else:
        measure = make_reconstruct(objective, data.mean, data.std, config["objective"]["norm_pix"])

    def run(state: TrainState) -> dict[str, Any]:
        average = averaged(state.opt_state)
        return measure(state.params if average is None else average, state, batches())

    return (Eval("val" if data.val else "train_images", min(every, steps), run),)


def eval_batches(source: Any, data: Data, size: int, mesh: jax.sharding.Mesh) -> Callable[[], Iterator[Batch]]:
    """A function that starts a pass over a source, its batches on the mesh."""
    host = pipeline.eval_batches(
        source, data.transform, batch_size=size, threads=data.threads, **mesh_lib.this_process()
    )

    def batches():
        for batch in host():
            yield mesh_lib.put(mesh, {key: rows for key, rows in batch.items() if key not in ("index", "broken")})

    return batches


def call(function: Callable, section: str, given: Config, **computed: Any) -> Any:
    """A config section as the keyword arguments of its function; a key that it does not take is one line."""
    taken = inspect.signature(function).parameters
    given = {key: value for key, value in given.items() if key in taken or key != "name"}
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        for key in given:
            if key not in taken:
                raise InputError(f"config section {section!r} has no key {key!r}{nearest(key, taken)}")
    return function(**{**given, **computed})


def encoder(model: Config) -> ViT:
    """The config's `model` section -> encoder."""
    return vit(**{key: value for key, value in model.items() if key != "image_size"})


def image_shape(model: Config) -> tuple[int, int, int]:
    """(H, W, C) of the images of a model."""
    size = model["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    return height, width, model["channels"]


def example(config: Config) -> Batch:
    """A batch of one blank image, for shapes."""
    return {"image": jnp.zeros((1, *image_shape(config["model"]))), "label": jnp.zeros((1,), jnp.int32)}


def make_objective(config: Config, classes: tuple[str, ...] | None) -> Objective:
    """The config's `objective` section -> Objective, with its teacher's architecture where it takes one."""
    section = config["objective"]
    module, function = OBJECTIVES[section["name"]].split(":")
    make = getattr(importlib.import_module(module), function)
    computed: dict[str, Any] = {"encoder": encoder(config["model"])}
    if section["name"] in NEEDS_TEACHER:
        computed["teacher"] = encoder(read_record(need_teacher(config))["config"]["model"])
    if "classes" in section:
        computed["classes"] = count_classes(section["classes"], classes)
    return call(make, "objective", section, **computed)


def need_teacher(config: Config) -> str:
    """The workdir of the teacher; no path distils from a randomly initialised one."""
    if not config["init"]["teacher"]:
        raise InputError(f"objective {config['objective']['name']!r} needs --config.init.teacher=WORKDIR")
    return config["init"]["teacher"]


def count_classes(stated: int | None, names: tuple[str, ...] | None) -> int:
    """The size of the head: what the config states, if the data has no more labels than that; else the data's."""
    if names is None:
        raise InputError("classification needs labels, and this source has none")
    if stated is not None and stated < len(names):
        raise InputError(f"objective.classes={stated}, but the data has {len(names)} classes; use {len(names)}")
    return stated or len(names)


def count_steps(train: Config, examples: int) -> int:
    """Steps of a run: as stated, or from its epochs, where an epoch drops its last partial batch as the papers do."""
    if train["steps"] is not None:
        return train["steps"]
    size = train["batch_size"]
    per_epoch = examples // size if examples >= size else examples / size
    return max(1, round(train["epochs"] * per_epoch))


def shapes(objective: Objective, config: Config) -> Variables:
    """The variables of an objective as ShapeDtypeStructs."""
    return jax.eval_shape(objective.init, jax.random.key(0), example(config))


def load_weights(config: Config, abstract: Variables) -> Weights:
    """The encoder and the teacher that `init` names, cut to what this run takes.

    Raises:
      InputError: weights that do not fit, that a rule of `init` does not allow to drop or to leave fresh, or whose
        head count is another than this model's.
    """
    init, params, frozen, hashes = config["init"], {}, {}, {}
    if init["encoder"]:
        source = load_params(init["encoder"])
        record = read_record(init["encoder"])
        check_heads(config, record)
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


def check_workdir(workdir: epath.PathLike, record: Config) -> None:
    """A workdir is empty, or holds this very run."""
    if not (epath.Path(workdir) / "config.json").exists():
        return
    old = read_record(workdir)
    hashes = [{**r["hashes"], "data": r["data"]["fingerprint"]} for r in (old, record)]
    for line in compare_configs(old["config"], record["config"], old_hashes=hashes[0], new_hashes=hashes[1]):
        log.info("resuming with another %s", line)


def make_record(config: Config, data: Data, hashes: dict[str, str]) -> dict[str, Any]:
    """config.json of a run."""
    return {
        "kind": "run",
        "config": config,
        "data": data.record,
        "hashes": hashes,
        "versions": {name: version(name) for name in ("lvit_jax", "jax", "flax", "optax", "orbax-checkpoint")},
    }
