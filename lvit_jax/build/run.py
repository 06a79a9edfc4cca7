"""Config -> Run, and the record of it."""

import logging
from importlib.metadata import version
from typing import Any

import jax
import optax
from etils import epath

from lvit_jax.build.data import load_data, make_batches, make_evals
from lvit_jax.build.parts import Config, call, count_steps, encoder, example, make_objective, shapes
from lvit_jax.build.weights import load_weights
from lvit_jax.data.sources import Data
from lvit_jax.errors import InputError
from lvit_jax.objectives import OBJECTIVES
from lvit_jax.training import mesh as mesh_lib
from lvit_jax.training.checkpoint import steps as saved_steps
from lvit_jax.training.loop import Run, check_intervals
from lvit_jax.training.optim import Schedule, make_tx
from lvit_jax.training.record import compare_configs, read_record
from lvit_jax.training.step import make_init
from lvit_jax.types import TrainState, Tree

log = logging.getLogger(__name__)


def build_run(config: Config, workdir: epath.PathLike) -> tuple[Run, dict[str, Any]]:
    """A config as a Run, and the record for its workdir; compiles nothing and writes nothing.

    Raises:
      InputError: for everything that can be wrong before the first compile: names, shapes, data, devices, weights,
        a workdir that holds another run.
    """
    (mesh, data, old), rules = check_start(config, workdir), config["mesh"]["rules"]
    objective = make_objective(config, data.train.classes, steps=count_steps(config, data.train.size)[0])
    abstract = shapes(objective, config)
    mesh_lib.shardings(mesh, abstract, rules)  # a rule that does not fit is told here, before anything is written
    tx, schedule, steps = make_optimizer(config, abstract.params, data.train.size)
    weights = load_weights(config, abstract, data.record, old["hashes"] if old else {})
    record = make_record(config, data, weights.hashes, steps)
    mesh_lib.check_alike(record)
    if old:
        check_same(old, record)

    def init() -> TrainState:
        start = make_init(objective, tx)
        key = jax.random.key(config["seed"])
        args = key, example(config), weights.params, weights.frozen
        return mesh_lib.place(mesh, start, *args, rules=rules)

    run = Run(
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
        batch_size=config["train"]["batch_size"],
        accumulate=config["train"]["accumulate"],
        rules=rules,
        save_every=config["checkpoint"]["every_steps"],
        keep=config["checkpoint"]["keep"],
        log_every=config["log"]["every_steps"],
        tensorboard=config["log"]["tensorboard"],
        profile=config["log"]["profile"],
    )
    check_intervals(run)
    _warn_of_few_images(run, data.train.size)
    _warn_of_microbatches(run, config["objective"]["name"])
    return run, record


def _warn_of_few_images(run: Run, images: int) -> None:
    if run.batch_size > images:
        message = (
            "train.batch_size=%d is more than the %d images: each step sees every image several times, and the run is "
            "%d step(s) long; set --config.train.batch_size, and --config.optim.warmup_epochs for a short run"
        )
        log.warning(message, run.batch_size, images, run.steps)


def _warn_of_microbatches(run: Run, name: str) -> None:
    if OBJECTIVES[name].compares and run.accumulate > 1:
        message = (
            "train.accumulate=%d: %s normalises by, or compares, the %d images of a microbatch, not of the whole batch"
        )
        log.warning(message, run.accumulate, name, run.batch_size // run.accumulate)


def make_optimizer(config: Config, params: Tree, examples: int) -> tuple[optax.GradientTransformation, Schedule, int]:
    """The gradient transformation, its learning rate per step, and the number of steps, for so many examples."""
    size, (steps, per_epoch) = config["train"]["batch_size"], count_steps(config, examples)
    depth = encoder(config["model"]).depth
    computed = {"params": params, "steps": steps, "steps_per_epoch": per_epoch, "batch_size": size, "depth": depth}
    return *call(make_tx, "optim", config["optim"], **computed), steps


def check_start(config: Config, workdir: epath.PathLike) -> tuple[jax.sharding.Mesh, Data, Config | None]:
    """What is checked before any weights are read: the workdir, the devices, the data.

    Returns:
      the mesh, the data, and the record of the run that the workdir holds already, or None.
    """
    path = epath.Path(workdir)
    if path.exists() and not path.is_dir():
        raise InputError(f"--workdir={workdir} is a file; name a folder")
    old = read_record(path) if (path / "config.json").exists() else None
    if old and old["kind"] != "run":
        raise InputError(f"--workdir={workdir} holds imported weights; name another folder for this run")
    if not old and saved_steps(path):
        raise InputError(f"--workdir={workdir} holds checkpoints but no config.json; name another folder")
    mesh = mesh_lib.make_mesh(config["mesh"]["devices"], config["mesh"]["fsdp"])
    mesh_lib.check_batch(config["train"]["batch_size"], mesh, config["train"]["accumulate"])
    mesh_lib.check_batch(config["eval"]["batch_size"], mesh)
    return mesh, load_data(config), old


def check_before_teacher(config: Config, teacher: Config, workdir: epath.PathLike) -> None:
    """All that can be wrong with a run whose teacher is yet to be trained with the config `teacher`."""
    _, data, old = check_start(config, workdir)
    steps = count_steps(config, data.train.size)[0]
    abstract = shapes(make_objective(config, data.train.classes, teacher, steps), config)
    make_optimizer(config, abstract.params, data.train.size)
    if old:
        check_same(old, make_record(config, data, {}, steps))


def check_same(old: Config, new: Config) -> None:
    """A workdir holds this very run; what differs without changing the mathematics is logged."""
    hashes = [{**record["hashes"], "data": record["data"]["fingerprint"]} for record in (old, new)]
    for line in compare_configs(old["config"], new["config"], old_hashes=hashes[0], new_hashes=hashes[1]):
        log.info("resuming with another %s", line)


def make_record(config: Config, data: Data, hashes: dict[str, str], steps: int) -> dict[str, Any]:
    """config.json of a run."""
    return {
        "kind": "run",
        "config": config,
        "data": {**data.record, "held_out": data.held_out},
        "hashes": hashes,
        "steps": steps,
        "versions": {name: version(name) for name in ("lvit_jax", "jax", "flax", "optax", "orbax-checkpoint")},
    }
