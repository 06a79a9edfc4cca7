"""What `lvit eval_robustness` prints, and writes to --out: results.json and a picture of each table of errors."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MEAN = "mean error (not divided by AlexNet's; the column called mCE in TinyMIM's table is this one)"
REGENERATED = "regenerated"
LONGEST = 40  # letters of a name, a path for example, in the title of a picture


def show(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Figures for a person: a line per benchmark, a table where there are corruptions."""
    for name, figures in results.items():
        if "errors" in figures:
            print("\n".join([name, *_table(figures)]))
        else:
            left = f"; {figures['unlabelled']} without a label left out" if "unlabelled" in figures else ""
            among = f"among {figures['classes']} classes, {figures['examples']} images{left}"
            print(f"{name:28} top-1 {figures['top1']:6.2f} %  {among}")


def _table(figures: Mapping[str, Any]) -> list[str]:
    """Errors in percent by corruption and severity, their mean, and the CE where there is one."""
    errors, ratios = figures["errors"], figures.get("CE", {})
    severities = _severities(errors)
    wide = max(17, *map(len, errors))
    head = [f"{'error in %':{wide}}", *(f"{s:>6}" for s in severities), "   mean", *(["    CE"] if ratios else [])]
    lines = ["  ".join(head)]
    for name, row in errors.items():
        cells = [f"{row[s]:6.2f}" if s in row else "     -" for s in severities]
        ratio = [f"{ratios[name]:6.1f}"] if ratios else []
        lines.append("  ".join([f"{name:{wide}}", *cells, f" {figures['corruptions'][name]:6.2f}", *ratio]))
    if "images" in figures:
        label = f" ({REGENERATED})" if REGENERATED in figures["images"] else ""
        value = "not reported: missing " + ", ".join(figures["missing"]) if figures["mCE"] is None else None
        lines += [f"images: {figures['images']}", f"mCE{label}: {value or format(figures['mCE'], '.2f')}"]
    return [*lines, f"{_mean_name(figures)}: {figures['mean_error']:.2f} %"]


def _mean_name(figures: Mapping[str, Any]) -> str:
    if "images" not in figures:
        return "mean error"
    return "mean error of what is there" if figures["mCE"] is None else MEAN


def _severities(errors: Mapping[str, Mapping[str, float]]) -> list[str]:
    return sorted({severity for row in errors.values() for severity in row}, key=int)


def write(out: Path, results: Mapping[str, Any]) -> None:
    """Writes the folder `out` whole or not at all."""
    part = out.parent / f"{out.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        (part / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        tables = {name: figures for name, figures in results["results"].items() if "errors" in figures}
        for name, figures in tables.items():
            picture(name, figures, part / (f"errors_{_plain(name)}.png" if len(tables) > 1 else "errors.png"))
        if out.exists():
            out.rmdir()
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def picture(name: str, figures: Mapping[str, Any], path: Path) -> None:
    """The error by corruption and severity: a square each, its number in it, on a background of its own."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    errors, severities = figures["errors"], _severities(figures["errors"])
    cells = np.array([[row.get(s, np.nan) for s in severities] for row in errors.values()])
    high = 1.4 + 0.32 * len(errors)
    figure, axes = plt.subplots(figsize=(max(5.6, 2.8 + 0.75 * len(severities)), high), layout="constrained")
    axes.imshow(cells, cmap="cividis", vmin=0, vmax=100, aspect="auto")  # cividis: made for the colour-blind
    for (y, x), value in np.ndenumerate(cells):
        text = "–" if np.isnan(value) else f"{value:.1f}"
        axes.text(x, y, text, ha="center", va="center", color="black" if value > 50 or np.isnan(value) else "white")
    axes.set_xticks(range(len(severities)), severities)
    labels = [f"{corruption.replace('_', ' ')} ({figures['corruptions'][corruption]:.1f})" for corruption in errors]
    axes.set_yticks(range(len(errors)), labels)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("severity")
    shown = name if len(name) <= LONGEST else "…" + name[-LONGEST:]
    figure.suptitle(f"{shown}: top-1 error in % (in brackets: mean)\n{_summary(figures)}", fontsize=10)
    figure.savefig(path, dpi=150, facecolor="white")
    plt.close(figure)


def _summary(figures: Mapping[str, Any]) -> str:
    value = f"{figures['mean_error']:.1f} %"
    if "images" not in figures:
        return f"mean error {value}"
    if figures["mCE"] is None:
        return f"no mCE: corruptions are missing; {_mean_name(figures)} {value}\n{figures['images']}"
    return f"mCE {figures['mCE']:.1f}, mean error {value}\n{figures['images']}"
