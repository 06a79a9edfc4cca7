"""Runs the steps of the observation and gathers their figures."""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from lvit_jax.bin import observation_plan
from lvit_jax.bin.demo_plan import Step
from lvit_jax.bin.demo_run import Walk
from lvit_jax.bin.observation_findings import findings
from lvit_jax.bin.observation_plan import ALL, METHODS, STARTS, Plan
from lvit_jax.errors import InputError


def count_images(plan: Plan) -> int:
    """The training images of the source, which have labels, as many as are asked for at least.

    Raises:
      InputError: no labels, no validation images, or more labels asked for than there are.
    """
    from lvit_jax.bin.flags import load_config, override
    from lvit_jax.build.data import load_data

    data = load_data(override(load_config("configs/demo/finetune.py"), plan.overrides).to_dict())
    if data.val is None:
        raise InputError(f"{data.train.name!r} has no validation images to measure accuracy on")
    if plan.labels[-1] > data.train.size:
        raise InputError(f"--labels={plan.labels[-1]}, but {data.train.name!r} has {data.train.size} training images")
    return data.train.size


def run_all(plan: Plan) -> dict[str, Any]:
    """Runs every step that is not done; returns all figures, as observation.json holds them."""
    steps = observation_plan.all_steps(plan)
    walk = Walk(steps)
    for step in steps:
        if step.binary == "train":
            walk.run(step)
        else:
            _measure(walk, step)
    cells = observation_plan.cells(plan)
    accuracy = {cell: last(cell.workdir(plan.root), "val/top1") for cell in cells}
    results = settings(plan) | {"cost": costs(plan), "accuracy": table(plan, accuracy)}
    results |= {"layers": probes(plan)} | analyses(plan)
    return results | {"findings": findings(results), "commands": [step.command() for step in steps]}


def _measure(walk: Walk, step: Step) -> None:
    """Measures, unless it has been done: of runs that are finished, and whose configs cannot change."""
    if step.workdir.exists():
        print(f"\n{step.workdir} is there already", file=sys.stderr)
        return
    walk.run(step)


def last(workdir: Path, key: str) -> float:
    """The last value of a figure of a run."""
    from lvit_jax.training.report import read_metrics

    return [record[key] for record in read_metrics(workdir) if key in record][-1]


def settings(plan: Plan) -> dict[str, Any]:
    """What was asked for, and the data."""
    from lvit_jax.training.record import read_record

    record = read_record(observation_plan.supervised().workdir(plan.root))
    asked = {"steps": plan.steps, "batch_size": observation_plan.BATCH, "labels": plan.labels, "seeds": plan.seeds}
    data = {"images": plan.images, "val_images": record["data"]["val_size"], "classes": len(record["data"]["classes"])}
    names = {"source": record["config"]["data"]["source"], "model": record["config"]["model"]}
    return {"workdir": str(plan.root), **names, **data, **asked, "overrides": plan.overrides}


def costs(plan: Plan) -> dict[str, dict[str, Any]]:
    """{name: see `build.cost.run_cost`} of the pre-trainings, the teacher's own among them."""
    from lvit_jax.build.cost import run_cost

    return {name: run_cost(plan.root / name) for name in ("teacher", *METHODS)}


def table(plan: Plan, accuracy: dict) -> dict[str, dict[str, Any]]:
    """{labels: {start: {"mean", "sd" (None for a single run), "seeds": [top-1 in percent]}}}, few labels first."""
    rows: dict[str, dict[str, Any]] = {}
    for labels in (*map(str, plan.labels), ALL):
        rows[labels] = {}
        for start in STARTS:
            values = [top1 for cell, top1 in accuracy.items() if (cell.start, cell.labels) == (start, labels)]
            sd = statistics.stdev(values) if len(values) > 1 else None
            rows[labels][start] = {"mean": statistics.fmean(values), "sd": sd, "seeds": values}
    return rows


def probes(plan: Plan) -> dict[str, Any]:
    """{model: the rows of `lvit eval_probe`}"""
    places = {name: observation_plan.probing(plan, name).workdir for name in observation_plan.models(plan)}
    return {name: json.loads(place.read_text())["rows"] for name, place in places.items()}


def analyses(plan: Plan) -> dict[str, Any]:
    """{"cka": {model: [its layers][supervised layers]}, "entropy" and "distance": {model: [blocks][heads]}, images}"""
    figures = json.loads(observation_plan.analysis(plan).workdir.read_text())
    names = list(observation_plan.models(plan))  # the order of the command
    found = {"cka": dict(zip(names, [pair["rows_are_layers_of_y"] for pair in figures["cka"]], strict=True))}
    for what in ("entropy", "distance"):
        found[what] = dict(zip(names, [model[what] for model in figures["models"]], strict=True))
    return found | {"analysed_images": figures["images"], "cka_images": figures["cka_images"]}
