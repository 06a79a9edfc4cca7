"""The demo's charts, as PNG files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from lvit_jax.bin.demo_plan import STARTS, Cell
from lvit_jax.training.report import read_metrics

# Okabe and Ito's colours, which the colour-blind tell apart.
COLOURS = {"logistic": "#999999", "scratch": "#E69F00", "mae": "#0072B2", "d2": "#009E73", "teacher": "#000000"}


def accuracy(table: Mapping[str, Any], rows: Mapping[str, str], labels: Mapping[str, str], path: Path) -> None:
    """One panel per amount of labels, one bar per row: mean, standard deviation, single runs."""
    figure, panels = plt.subplots(1, len(labels), figsize=(11, 3.2), sharey=True, layout="constrained")
    for panel, (key, title) in zip(panels, labels.items(), strict=True):
        for y, start in enumerate(rows):
            _bar(panel, y, COLOURS[start], table[key][start])
        least = min(min(row["seeds"]) for row in table[key].values())
        panel.set_xlim(max(0, least - 0.5 * (100 - least)), 100)
        panel.set_title(title)
        panel.set_xlabel("top-1 accuracy, % (the axis does not start at 0)")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(rows)), rows.values())
    panels[0].invert_yaxis()
    _save(figure, path)


def _bar(panel: plt.Axes, y: int, colour: str, row: Mapping[str, Any]) -> None:
    panel.barh(y, row["mean"], color=colour, height=0.7)
    panel.errorbar(row["mean"], y, xerr=row["sd"], color="black", capsize=4)
    panel.plot(row["seeds"], [y + 0.2] * len(row["seeds"]), "o", color="black", markersize=3)
    right = ("axes fraction", "data")  # beside the panel, where no bar or line can cover it
    panel.annotate(f"{row['mean']:.1f}", (1.02, y), xycoords=right, va="center", weight="bold")


def losses(root: Path, path: Path) -> None:
    """Reconstruction of the three pre-trainings, distillation of D²-MAE, fine-tuning on 100 labels."""
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    names = {"teacher": "teacher, MAE", "mae": "student (a), MAE", "d2": "student (b), D²-MAE"}
    for name, label in names.items():
        _curve(panels[0], root / name, "reconstruction", label, COLOURS[name])
    _curve(panels[1], root / "d2", "distill", names["d2"], COLOURS["d2"])
    for start, label in STARTS.items():
        _curve(panels[2], Cell(start, "100", 0).workdir(root), "loss", label, COLOURS[start])
    titles = ("pre-training: reconstruction loss", "attention distillation loss", "fine-tuning on 100 labels, seed 0")
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(title)
        panel.set_xlabel("step")
        panel.set_ylim(bottom=0)
        panel.legend(frameon=False)
        panel.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _curve(panel: plt.Axes, workdir: Path, key: str, label: str, colour: str) -> None:
    records = [record for record in read_metrics(workdir) if key in record]
    panel.plot([r["step"] for r in records], [r[key] for r in records], ".-", color=colour, label=label)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=110)
    plt.close(figure)
