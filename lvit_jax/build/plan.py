"""Config -> what its run would take on a topology: sizes, FLOPs, memory, time. Reads no data and no weights."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from lvit_jax.build.parts import Config, count_steps, example, make_objective, named, shapes
from lvit_jax.build.run import make_optimizer
from lvit_jax.errors import InputError
from lvit_jax.models import ENCODERS, KINDS
from lvit_jax.objectives import NEEDS_CLASSIFIER, NEEDS_TEACHER
from lvit_jax.training import ahead
from lvit_jax.training import mesh as mesh_lib
from lvit_jax.training.chips import GIB, Topology
from lvit_jax.training.flops import count_flops
from lvit_jax.training.step import make_init, make_step
from lvit_jax.tree import flatten, unflatten
from lvit_jax.types import Batch, Objective, TrainState

# name of a source -> (training images, classes), so that no data set need be there
SOURCES = {"imagenet2012": (1_281_167, 1000), "digits": (1437, 10)}
MOST = 2**16  # images a device, where a sweep stops to double


class Job(NamedTuple):
    """What is planned: a config on a topology, and what the config leaves to data and weights."""

    config: Config
    topology: Topology
    images: int  # of the training set
    classes: int | None
    teacher: Config | None  # the teacher's config where no workdir holds one


class Step(NamedTuple):
    """A training step in shapes alone, and how many a run has."""

    objective: Objective
    tx: optax.GradientTransformation
    state: TrainState
    batch: Batch
    steps: int


def make_job(
    config: Config,
    topology: Topology,
    images: int | None = None,
    classes: int | None = None,
    teacher: str | Config | None = None,
) -> Job:
    """Fills in what a run would read from its data and its teacher.

    Args:
      images, classes: of a source that `SOURCES` does not know.
      teacher: a size of `models.ENCODERS` or the config that trains it, where init.teacher names no workdir.

    Raises:
      InputError: an unknown source without images or classes, a teacher that is missing or too many.
    """
    source, objective, needs = config["data"]["source"], config["objective"], NEEDS_TEACHER
    known = SOURCES.get(source, (None, None))
    images, classes = images or known[0], objective.get("classes") or classes or known[1]
    if images is None:
        raise InputError(f"a plan reads no data: say with --images=N how many images {source!r} has")
    if "classes" in objective and classes is None:
        raise InputError(f"a plan reads no data: say with --classes=C how many classes {source!r} has")
    if objective["name"] in needs and not (config["init"]["teacher"] or teacher):
        raise InputError(f"objective {objective['name']!r} has a teacher: say which with --teacher=vit_base or such")
    if teacher and (objective["name"] not in needs or config["init"]["teacher"]):
        raise InputError("--teacher stands for a teacher that the config needs and init.teacher does not name")
    sized = isinstance(teacher, str)
    return Job(config, topology, images, classes, teacher_config(config, teacher) if sized else teacher)


def teacher_config(config: Config, size: str) -> Config:
    """The config of a teacher of some size, on the student's patches."""
    kind, theirs = ENCODERS[size][0], {"name": size, "image_size": config["model"]["image_size"]}
    taken = inspect.signature(named(KINDS[kind].make)).parameters
    same = [key for key in ("channels", "patch_size", "q_pool") if key in config["model"] and key in taken]
    model = theirs | {key: config["model"][key] for key in same}
    head = {"name": "classify", "classes": None, "pool": "mean", "head_norm": kind != "regnet"}
    return {"model": model, "objective": head if config["objective"]["name"] in NEEDS_CLASSIFIER else None}


def abstract_step(config: Config, images: int, classes: int | None, teacher: Config | None = None) -> Step:
    """The step of a run, whose arrays are ShapeDtypeStructs; the arguments are those of a `Job`."""
    size = config["train"]["batch_size"]
    names = tuple(map(str, range(classes))) if "classes" in config["objective"] else None
    objective = make_objective(config, names, teacher, count_steps(config, images)[0])
    tx, _, steps = make_optimizer(config, shapes(objective, config).params, images)
    sample = example(config)
    state = jax.eval_shape(make_init(objective, tx), jax.random.key(0), sample, {}, {})
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), sample)
    return Step(objective, tx, state, batch, steps)


def step_flops(step: Step, accumulate: int) -> int:
    """FLOPs of one update of the whole batch."""
    return count_flops(make_step(step.objective, step.tx, 0, accumulate), step.state, step.batch)


def plan(job: Job, efficiency: float, say: Callable[[str], None]) -> dict[str, Any]:
    """All figures of a job; those of the compiler are None where there is no libtpu.

    Args:
      efficiency: share of the roofline's rate that the run is taken to keep.
      say: takes lines about what is under way.

    Returns:
      A dict of numbers, strings and dicts, of which bin/plan.py makes its lines and its JSON. Memory, FLOPs and times
      are of a chip, however many devices jax shows of it.
    """
    mesh, config, topology = _checked_mesh(job), job.config, job.topology
    step = abstract_step(config, job.images, job.classes, job.teacher)
    size, accumulate = config["train"]["batch_size"], config["train"]["accumulate"]
    flops = step_flops(step, accumulate)
    image = step.batch["image"]
    held = ahead.held_bytes(mesh, step.state, config["mesh"]["rules"]) + image.size * image.dtype.itemsize / mesh.size
    compiled = _compile(job, step, say) if ahead.has_libtpu() else None
    chips, per_chip = topology.chips * topology.slices, topology.chip.devices
    moved = compiled.moved * per_chip if compiled and compiled.moved else None
    # Of more than one microbatch the compiler counts one; else far more than ours would be work done twice.
    theirs = compiled.flops * mesh.size if compiled and compiled.flops and accumulate == 1 else None
    time = roofline(topology, flops / chips, moved)
    return {
        "topology": str(topology),
        "chips": chips,
        "mesh": dict(mesh.shape),
        "batch_size": size,
        "accumulate": accumulate,
        "remat": config["model"]["remat"],
        "parameters": _count(step.state.params),
        "frozen_parameters": _count(step.state.frozen),
        "flops_per_image": flops / size,
        "compiler_flops_per_image": theirs and theirs / size,
        "hbm_bytes_per_image": moved and moved * chips / size,
        "memory": _memory(topology, held, compiled),
        "roofline": time,
        "images_per_s_per_chip": size / chips / time["step_s"],
        "images_per_s_per_chip_compute": size / chips / time["compute_s"],
        "steps": step.steps,
        "efficiency": efficiency,
        "hours": step.steps * time["step_s"] / efficiency / 3600,
        "collectives": compiled and compiled.collectives,
        "compiled": compiled is not None,
    }


def roofline(topology: Topology, flops: float, moved: float | None) -> dict[str, Any]:
    """The least time of a step on a chip, from its FLOPs and its bytes (None: unknown), and which of them binds."""
    compute = flops / topology.chip.flops
    memory = None if moved is None else moved / topology.chip.bandwidth
    bound = "compute" if memory is None or compute >= memory else "memory"
    return {"compute_s": compute, "memory_s": memory, "step_s": max(compute, memory or 0), "bound": bound}


def _memory(topology: Topology, held: int, compiled: ahead.Compiled | None) -> dict[str, Any]:
    """GiB of a chip. What does not fit has neither arguments nor temporaries: the compiler gave up."""
    scale, available = topology.chip.devices / GIB, topology.chip.usable
    memory = {"available_gib": available, "chip_gib": topology.chip.hbm, "state_and_batch_gib": held * scale}
    if compiled is None:
        over = max(0.0, memory["state_and_batch_gib"] - available)
        fits = False if over else None  # temporaries are not known
        parts = {"arguments_gib": None, "temporaries_gib": None, "total_gib": None}
        return memory | parts | {"fits": fits, "over_gib": over}  # at least so much
    parts = {"arguments_gib": compiled.arguments, "temporaries_gib": compiled.temporaries, "total_gib": compiled.total}
    parts = {name: None if value is None else value * scale for name, value in parts.items()}
    fits = compiled.fits and parts["total_gib"] <= available
    return memory | parts | {"fits": fits, "over_gib": max(0.0, parts["total_gib"] - available)}


def _checked_mesh(job: Job) -> jax.sharding.AbstractMesh:
    """The shape of the mesh, where devices, fsdp and batch divide."""
    wanted, train = job.config["mesh"], job.config["train"]
    if wanted["devices"] not in (None, job.topology.devices):
        raise InputError(f"mesh.devices={wanted['devices']}, but {job.topology} has {job.topology.devices}; unset it")
    mesh = mesh_lib.abstract_mesh(job.topology.devices, wanted["fsdp"], job.topology.slices)
    mesh_lib.check_batch(train["batch_size"], mesh, train["accumulate"])
    mesh_lib.check_batch(job.config["eval"]["batch_size"], mesh)
    return mesh


def _compile(job: Job, step: Step, say: Callable[[str], None]) -> ahead.Compiled:
    config = job.config
    mesh = mesh_lib.make_mesh(fsdp=config["mesh"]["fsdp"], available=ahead.devices(job.topology))
    say(
        f"compiling for {job.topology}: batch {config['train']['batch_size']}, fsdp {config['mesh']['fsdp']}, "
        f"remat {config['model']['remat']}"
    )
    accumulate, rules = config["train"]["accumulate"], config["mesh"]["rules"]
    jitted = mesh_lib.jit_step(mesh, step.objective, step.tx, step.state, accumulate, rules)
    return ahead.compile_ahead(jitted, step.state, step.batch, jax.ShapeDtypeStruct((), np.uint32))


def _count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def sweep(job: Job, over: str, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The largest batch that fits, for the job as it is ("batch"), or for each value of "remat" or "fsdp".

    Returns:
      A dict per value: the value, `batch_size` (0: not even one image a device fits) and its GiB a chip.

    Raises:
      InputError: without libtpu, which alone knows what fits.
    """
    if not ahead.has_libtpu():
        raise InputError("a sweep needs the compiler: pip install 'lvit_jax[tpu]'")
    if over == "batch":
        return [_largest(job, {}, say)]
    if over == "remat":
        return [_largest(job, {"model/remat": remat}, say) for remat in (False, True)]
    each = job.topology.devices // job.topology.slices
    powers = (2**k for k in range(each.bit_length()))
    return [_largest(job, {"mesh/fsdp": fsdp}, say) for fsdp in powers if each % fsdp == 0]


def _largest(job: Job, changes: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    unit = job.topology.devices * job.config["train"]["accumulate"]
    totals: dict[int, float] = {}

    def fits(count: int) -> bool:
        config = unflatten(flatten(job.config) | changes | {"train/batch_size": count * unit})
        tried = job._replace(config=config)
        step = abstract_step(config, job.images, job.classes, job.teacher)
        memory = _memory(job.topology, 0, _compile(tried, step, say))
        totals[count] = memory["total_gib"]
        return memory["fits"]

    best = largest(fits, max(1, job.config["train"]["batch_size"] // unit), MOST)
    return {
        **{key.split("/")[1]: value for key, value in changes.items()},
        "batch_size": best * unit,
        "total_gib": totals.get(best),
        "available_gib": job.topology.chip.usable,
        "compiles": len(totals),
    }


def largest(fits: Callable[[int], bool], start: int, most: int) -> int:
    """The largest n, from 1 to `most`, that fits, to within an eighth; 0 where none does. Trials are few: they cost.

    Doubles or halves from `start` until one fits and its double does not, then bisects.
    """
    low, high = 0, None
    trial = min(start, most)
    while trial and (high is None or low == 0):
        if fits(trial):
            low, trial = trial, min(2 * trial, most)
            if high is not None or low == most:
                break
        else:
            high, trial = trial, trial // 2
            if low:
                break
    while high is not None and high - low > max(1, low // 8):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
