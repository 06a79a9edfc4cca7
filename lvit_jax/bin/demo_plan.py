"""The steps of the demo: commands of the other binaries, in order, and where each leaves its results."""

import shlex
from pathlib import Path
from typing import NamedTuple

STARTS = {"scratch": "from scratch", "mae": "MAE", "d2": "D²-MAE"}
LABELS = {"all": "all labels", "100": "100 labels"}
SEEDS = {"all": (0,), "100": (0, 1, 2)}
# Of pre-training; the configs of teacher and D² are shorter, since d2.py alone has to train its teacher, too.
EPOCHS = {"teacher": 100.0, "mae": 80.0, "d2": 80.0}
NO_WARMUP = "--config.optim.warmup_epochs=0.0"  # the configs' own would not fit so few steps
# Seconds on two idle cores, measured; they only weigh the steps for the time left.
COST = {"teacher": 70.0, "mae": 40.0, "d2": 60.0, "all": 25.0, "100": 10.0, "eval_classify": 2.0, "export_torch": 3.0}


class Step(NamedTuple):
    """One command: `lvit <binary> <argv>`."""

    title: str
    binary: str
    argv: tuple[str, ...]
    workdir: Path
    cost: float

    def command(self) -> str:
        """What one types for it."""
        return shlex.join(["lvit", self.binary, *self.argv])


class Cell(NamedTuple):
    """One fine-tuned run: its initial weights, its labels, its seed."""

    start: str
    labels: str
    seed: int

    def workdir(self, root: Path) -> Path:
        """Where it is trained."""
        return root / "finetune" / f"{self.start}_{self.labels}_seed{self.seed}"


def cells(fast: bool) -> list[Cell]:
    """Every fine-tuning of the demo, all labels first."""
    seeds = {"all": (0,), "100": (0, 1)} if fast else SEEDS
    return [Cell(start, labels, seed) for labels in LABELS for start in STARTS for seed in seeds[labels]]


def pretraining(root: Path, fast: bool) -> list[Step]:
    """The teacher, and the two ways to pre-train its student."""

    def step(name: str, title: str, *extra: str) -> Step:
        length = ("--config.train.steps=20", NO_WARMUP) if fast else (f"--config.train.epochs={EPOCHS[name]}",)
        argv = (f"--config=configs/demo/{name}.py", f"--workdir={root / name}", *extra, *length)
        return Step(title, "train", argv, root / name, COST[name])

    return [
        step("teacher", "pre-train the teacher: MAE"),
        step("mae", "pre-train the student (a): MAE"),
        step("d2", "pre-train the student (b): D²-MAE, from the teacher", f"--config.init.teacher={root / 'teacher'}"),
    ]


def finetuning(root: Path, cell: Cell, fast: bool) -> Step:
    """Fine-tunes the student from one start, on some of the labels, with one seed."""
    workdir = cell.workdir(root)
    config = "finetune" if cell.labels == "all" else "finetune_few"
    argv = [f"--config=configs/demo/{config}.py", f"--workdir={workdir}", f"--config.seed={cell.seed}"]
    argv += [f"--config.data.limit_seed={cell.seed}"] * (cell.labels != "all")
    argv += [f"--config.init.encoder={root / cell.start}"] * (cell.start != "scratch")
    argv += ["--config.train.steps=10", NO_WARMUP] * fast
    title = f"fine-tune on {LABELS[cell.labels]}, {STARTS[cell.start]}, seed {cell.seed}"
    return Step(title, "train", tuple(argv), workdir, COST[cell.labels])


def evaluation(root: Path, cell: Cell) -> Step:
    """Counts the validation images that a fine-tuned run gets right."""
    workdir = cell.workdir(root)
    title = f"evaluate {STARTS[cell.start]}, {LABELS[cell.labels]}, seed {cell.seed}"
    return Step(title, "eval_classify", (f"--workdir={workdir}", "--json"), workdir, COST["eval_classify"])


def export(root: Path, cell: Cell) -> Step:
    """Writes one fine-tuned run for PyTorch."""
    workdir = cell.workdir(root)
    out = root / "export" / workdir.name
    argv = (f"--workdir={workdir}", "--to=timm", f"--out={out}")
    return Step("export the best for timm and transformers", "export_torch", argv, out, COST["export_torch"])
