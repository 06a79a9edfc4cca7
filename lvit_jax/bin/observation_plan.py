"""The steps of the observation: what is trained, with which updates on which labels, and what is measured of it."""

from pathlib import Path
from typing import NamedTuple

from lvit_jax.bin.demo_plan import Cell, Step

METHODS = {"mae": "MAE", "moco": "MoCo-v3", "d2": "D²-MAE"}
STARTS = {"scratch": "from scratch"} | METHODS
ALL = "all"
BATCH = 64  # images of an update, in every pre-training and with all labels
FEW_BATCH = 50  # with few labels, as configs/demo/finetune_few.py
PROBE_BATCH = 128  # as configs/demo/probe.py
WARMUP = 0.1  # share of the updates
NEIGHBOURS = 20
# Seconds of 1000 updates on two idle cores, measured, beside START of compiling; they only weigh the steps for the
# time left.
COST = {"teacher": 35.0, "mae": 25.0, "moco": 60.0, "d2": 35.0, "finetune": 35.0, "eval_probe": 20.0, "analyze": 15.0}
START = 5.0


class Plan(NamedTuple):
    """One observation: where, how long, on what."""

    root: Path
    steps: int  # updates of each pre-training, and of fine-tuning on all labels
    labels: tuple[int, ...]  # numbers of them, beside all
    seeds: int  # of fine-tuning with few labels; they also draw the labels
    images: int  # of the training split
    overrides: tuple[str, ...] = ()  # of every run's config


def supervised() -> Cell:
    """The fully supervised model that the others are compared with."""
    return Cell("scratch", ALL, 0)


def cells(plan: Plan) -> list[Cell]:
    """Every fine-tuning, the supervised model first."""
    few = [Cell(start, str(n), seed) for n in plan.labels for start in STARTS for seed in range(plan.seeds)]
    return [*(Cell(start, ALL, 0) for start in STARTS), *few]


def pretraining(plan: Plan) -> list[Step]:
    """The teacher of D², and the three ways to pre-train the student: equal updates, equal images."""
    names = {"teacher": "the teacher of D²: MAE"} | METHODS
    return [_pretrain(plan, name, title) for name, title in names.items()]


def _pretrain(plan: Plan, name: str, title: str) -> Step:
    workdir = plan.root / name
    argv = [f"--config=configs/demo/{name}.py", f"--workdir={workdir}", *_length(plan.steps, BATCH, plan.images)]
    argv += [f"--config.init.teacher={plan.root / 'teacher'}"] * (name == "d2")
    cost = START + COST[name] * plan.steps / 1000
    return Step(f"pre-train {title}", "train", (*argv, *plan.overrides), workdir, cost)


def _length(steps: int, batch: int, images: int) -> tuple[str, ...]:
    """So many updates, warmed up over the first of them: configs count a warm-up in epochs, as the papers."""
    per_epoch = images // batch if images >= batch else images / batch
    flags = {
        "train.steps": steps,
        "train.batch_size": batch,
        "optim.warmup_epochs": f"{WARMUP * steps / per_epoch:.6g}",
    }
    return tuple(f"--config.{key}={value}" for key, value in flags.items())


def finetuning(plan: Plan, cell: Cell) -> Step:
    """Fine-tunes from one start, on all labels with as many updates as pre-training, on few with a quarter of them."""
    workdir = cell.workdir(plan.root)
    config = "finetune" if cell.labels == ALL else "finetune_few"
    argv = [f"--config=configs/demo/{config}.py", f"--workdir={workdir}", f"--config.seed={cell.seed}"]
    if cell.labels == ALL:
        steps = plan.steps
        argv += _length(steps, BATCH, plan.images)
    else:
        steps, count = max(1, plan.steps // 4), int(cell.labels)
        argv += [f"--config.data.limit={count}", f"--config.data.limit_seed={cell.seed}"]
        argv += _length(steps, min(FEW_BATCH, count), count)
    argv += [f"--config.init.encoder={plan.root / cell.start}"] * (cell.start != "scratch")
    title = f"fine-tune on {cell.labels} labels, {STARTS[cell.start]}, seed {cell.seed}"
    return Step(title, "train", (*argv, *plan.overrides), workdir, START + COST["finetune"] * steps / 1000)


def models(plan: Plan) -> dict[str, str]:
    """{name: workdir} of what is probed and analysed; the supervised model first."""
    found = {"scratch": str(supervised().workdir(plan.root))}
    found |= {name: str(plan.root / name) for name in METHODS}
    return found | {"untrained": f"untrained:{plan.root / 'mae'}"}


def probing(plan: Plan, name: str) -> Step:
    """Accuracy of every layer of one model, frozen: k-NN, and linear probes trained with a third of the updates."""
    out = plan.root / "probe" / name
    argv = [f"--workdir={models(plan)[name]}", f"--k={NEIGHBOURS}", "--linear=demo/probe", f"--out={out}"]
    argv += _length(max(1, plan.steps // 3), PROBE_BATCH, plan.images)
    cost = START + COST["eval_probe"] * plan.steps / 1000
    return Step(f"probe {name}", "eval_probe", (*argv, *plan.overrides), out / "probe.json", cost)


def analysis(plan: Plan) -> Step:
    """CKA of all to the supervised model, attention of all."""
    first, *others = models(plan).values()
    out = plan.root / "analysis"
    argv = (f"--workdir={first}", f"--against={','.join(others)}", f"--out={out}")
    return Step("compare layers and attention", "analyze", argv, out / "analysis.json", COST["analyze"])


def all_steps(plan: Plan) -> list[Step]:
    """In order."""
    trained = [*pretraining(plan), *(finetuning(plan, cell) for cell in cells(plan))]
    return [*trained, *(probing(plan, name) for name in models(plan)), analysis(plan)]
