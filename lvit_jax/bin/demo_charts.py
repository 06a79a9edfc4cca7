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
    figure, panels = plt.subplots(1, len(labels), figsize=(11, 3.2), layout="constrained")
    for panel, (key, title) in zip(panels, labels.items(), strict=True):
        for y, start in enumerate(rows):
            _bar(panel, y, COLOURS[start], table[key][start])
        worst = min(min(row["seeds"]) for row in table[key].values())
        panel.set_xlim(max(0, worst - 0.3 * (100 - worst) - 1), 100)
        panel.set_yticks(range(len(rows)), rows.values())
        panel.invert_yaxis()
        panel.set_title(f"{title} (axis does not start at 0)")
        panel.set_xlabel("top-1 accuracy on validation images, %")
        panel.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _bar(panel: plt.Axes, y: int, colour: str, row: Mapping[str, Any]) -> None:
    panel.barh(y, row["mean"], color=colour, xerr=row["sd"], error_kw={"capsize": 4})
    panel.plot(row["seeds"], [y + 0.2] * len(row["seeds"]), "o", color="black", markersize=3)
    label = {"color": "white", "weight": "bold", "va": "center", "xycoords": ("axes fraction", "data")}
    panel.annotate(f"{row['mean']:.1f}", (0.02, y), **label)


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
        panel.set_yscale("log")
        panel.legend(frameon=False)
        panel.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _curve(panel: plt.Axes, workdir: Path, key: str, label: str, colour: str) -> None:
    records = [record for record in read_metrics(workdir) if key in record]
    panel.plot([r["step"] for r in records], [r[key] for r in records], ".-", color=colour, label=label)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=110)
    plt.close(figure)
