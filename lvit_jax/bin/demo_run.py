"""Runs the steps of the demo in this process, and the baseline that they are held against."""

import contextlib
import importlib
import io
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lvit_jax.bin import demo_plan
from lvit_jax.bin.demo_plan import Cell, Step

Accuracy = dict[Cell, float]  # top-1 in percent


class Walk:
    """Runs one step after the other; before each it says which of how many, the time gone and the time left."""

    def __init__(self, steps: Sequence[Step]):
        self._count, self._left = len(steps), sum(step.cost for step in steps)
        self._began = time.perf_counter()
        self._spent = self._foreseen = 0.0  # seconds and cost of the steps that were not there already
        self._done = 0

    def run(self, step: Step) -> str:
        """Calls the binary's `main`; returns what it wrote to stdout."""
        there, began, out = step.workdir.exists(), time.perf_counter(), io.StringIO()
        self._announce(step)
        with contextlib.redirect_stdout(out):
            importlib.import_module(f"lvit_jax.bin.{step.binary}").main(step.argv)
        self._left -= step.cost
        self._done += 1
        if not there:
            self._spent += time.perf_counter() - began
            self._foreseen += step.cost
        return out.getvalue()

    def _announce(self, step: Step) -> None:
        rate = self._spent / self._foreseen if self._foreseen else 1.0
        gone, left = (clock(seconds) for seconds in (time.perf_counter() - self._began, self._left * rate))
        print(f"\n[{self._done + 1}/{self._count}] {step.title}   ({gone} gone, about {left} left)", file=sys.stderr)
        print(f"$ {step.command()}", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Seconds as minutes:seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def run_all(root: Path, fast: bool) -> tuple[Accuracy, Cell, list[str]]:
    """Runs every step; returns the accuracies, logistic regression's among them, the best run, and the commands."""
    cells, first = demo_plan.cells(fast), demo_plan.pretraining(root, fast)
    pairs = {cell: (demo_plan.finetuning(root, cell, fast), demo_plan.evaluation(root, cell)) for cell in cells}
    steps = [*first, *(step for pair in pairs.values() for step in pair)]
    walk = Walk([*steps, demo_plan.export(root, cells[0])])
    for step in first:
        walk.run(step)
    accuracy = {}
    for cell, (train, evaluate) in pairs.items():
        walk.run(train)
        accuracy[cell] = json.loads(walk.run(evaluate).splitlines()[-1])["top1"]
        print(f"top-1 {accuracy[cell]:.2f} %", file=sys.stderr)
    winner = best(accuracy)
    last = demo_plan.export(root, winner)
    export(walk, last)
    return accuracy | logistic_regression(root, cells), winner, [step.command() for step in [*steps, last]]


def best(accuracy: Mapping[Cell, float]) -> Cell:
    """The run with the highest accuracy; among equals the first."""
    return max(accuracy, key=accuracy.__getitem__)


def export(walk: Walk, step: Step) -> None:
    """Exports, unless this very run was exported before: the binary does not write over a folder."""
    if step.workdir.exists():
        print(f"\n{step.workdir} is there already", file=sys.stderr)
    else:
        print(walk.run(step), end="", file=sys.stderr)


def logistic_regression(root: Path, cells: Sequence[Cell]) -> Accuracy:
    """Logistic regression on the pixels, on the very images and labels that each fine-tuned run saw (unaugmented).

    Its regularisation is chosen by 5-fold cross-validation on those labels.
    """
    from lvit_jax.build.data import load_data
    from lvit_jax.training.record import read_record

    accuracy = {}
    for cell in cells:
        ours = cell._replace(start="logistic")
        if ours in accuracy or (cell.labels == "all" and cell.seed):
            continue  # all labels are the same labels, whatever the seed
        data = load_data(read_record(cell.workdir(root))["config"])
        accuracy[ours] = _fit(pixels(data.train, data.transform), pixels(data.val, data.transform))
    return accuracy


def _fit(train: tuple[np.ndarray, np.ndarray], val: tuple[np.ndarray, np.ndarray]) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    search = GridSearchCV(LogisticRegression(max_iter=2000), {"C": [0.03, 0.3, 3.0]}, cv=5)
    return 100 * search.fit(*train).score(*val)


def pixels(source, transform) -> tuple[np.ndarray, np.ndarray]:
    """The images of a source as rows float64 [N, H*W*C], normalised as for evaluation, and their labels int32 [N]."""
    from lvit_jax.data.pipeline import eval_batches

    batches = list(eval_batches(source, transform, batch_size=128)())
    real = np.concatenate([batch["mask"] for batch in batches]) > 0
    images, labels = (np.concatenate([batch[key] for batch in batches])[real] for key in ("image", "label"))
    return images.reshape(len(images), -1).astype(np.float64), labels  # L-BFGS takes five times longer in float32
