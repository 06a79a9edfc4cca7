"""The demo's results: the table, the charts, and one HTML page that carries its pictures inside."""

import base64
import html
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lvit_jax.bin import demo_charts, demo_plan
from lvit_jax.bin.demo_plan import LABELS, Cell

ROWS = {"logistic": "logistic regression on pixels"} | {k: f"ViT, {v}" for k, v in demo_plan.STARTS.items()}
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>lvit demo</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse }} td, th {{ padding: .3rem 1rem; border-bottom: 1px solid #ccc; text-align: left }}
img {{ max-width: 100% }} figcaption {{ color: #555 }} pre {{ overflow-x: auto }}
figure {{ margin: 1.5rem 0; display: inline-block; vertical-align: top }}
</style>
<h1>lvit demo: scanned digits, from pre-training to export</h1>
<p>{about}</p>
<h2>Top-1 accuracy on the {examples} validation images, percent</h2>
{table}
<p>{note}</p>
{figures}
<details><summary>The {count} commands</summary><pre>{commands}</pre></details>
</html>
"""


def summary(accuracy: Mapping[Cell, float], best: Cell, root: Path) -> dict[str, Any]:
    """Mean and sample standard deviation over the seeds, per start and labels; what `--json` prints.

    Returns:
      {"accuracy": {labels: {start: {"mean", "sd" (None for a single run), "seeds": [top-1 in percent]}}},
      "error_ratio_to_logistic": {labels: {start: errors over those of logistic regression}},
      "best": the run, its top-1 and workdir, "export": its folder, "report": the page}
    """
    table: dict[str, dict[str, Any]] = {labels: {} for labels in LABELS}
    for labels in LABELS:
        for start in ROWS:
            values = [top1 for cell, top1 in accuracy.items() if (cell.start, cell.labels) == (start, labels)]
            sd = statistics.stdev(values) if len(values) > 1 else None
            table[labels][start] = {"mean": statistics.fmean(values), "sd": sd, "seeds": values}
    ratio = {labels: _error_ratios(rows) for labels, rows in table.items()}
    best_run = {**best._asdict(), "top1": accuracy[best], "workdir": str(best.workdir(root))}
    places = {"export": str(demo_plan.export(root, best).workdir), "report": str(root / "report" / "index.html")}
    return {"accuracy": table, "error_ratio_to_logistic": ratio, "best": best_run} | places


def _error_ratios(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    baseline = max(100 - rows["logistic"]["mean"], 1e-9)
    return {start: (100 - row["mean"]) / baseline for start, row in rows.items() if start != "logistic"}


def cell_text(row: Mapping[str, Any]) -> str:
    """'97.5 ± 0.3', or '97.5' for a single run."""
    return f"{row['mean']:.1f}" + ("" if row["sd"] is None else f" ± {row['sd']:.1f}")


def table(results: Mapping[str, Any]) -> str:
    """The table in Markdown."""
    columns = results["accuracy"]
    lines = [["top-1, %", *(LABELS[labels] for labels in columns)]]
    lines += [[name, *(cell_text(columns[labels][start]) for labels in columns)] for start, name in ROWS.items()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def write(root: Path, results: Mapping[str, Any], commands: Sequence[str]) -> None:
    """Writes root/report: index.html and its pictures as PNG."""
    folder = root / "report"
    folder.mkdir(parents=True, exist_ok=True)
    demo_charts.accuracy(results["accuracy"], ROWS, LABELS, folder / "accuracy.png")
    demo_charts.losses(root, folder / "losses.png")
    captions = {
        "accuracy": "Means; lines are one standard deviation over the seeds, dots the single runs.",
        "losses": "Means over the steps between two reports. The losses of MAE and D²-MAE are of the same kind, but "
        "D²-MAE reconstructs from an inner block.",
    }
    for name in ("mae", "d2"):
        pictures = sorted((root / name / "figures").glob("*_grid_*.png"), key=lambda path: path.stat().st_mtime)
        shutil.copyfile(pictures[-1], folder / f"reconstruction_{name}.png")
        captions[f"reconstruction_{name}"] = f"Validation images reconstructed by the {demo_plan.STARTS[name]} student."
    (folder / "index.html").write_text(page(folder, results, captions, commands))


def page(folder: Path, results: Mapping[str, Any], captions: Mapping[str, str], commands: Sequence[str]) -> str:
    """The HTML page, with the pictures `folder`/<name>.png of `captions` inside."""
    best, seeds = results["best"], len(results["accuracy"]["100"]["mae"]["seeds"])
    return PAGE.format(
        about="A teacher is pre-trained by masked image modelling, then a smaller student: (a) by MAE, (b) by D²-MAE "
        "with that teacher, on the 1,437 training images without labels. The student is then fine-tuned from scratch "
        "and from both, by one and the same schedule.",
        examples=360,
        table=_html_table(results),
        note=f"With 100 labels: mean ± standard deviation over {seeds} seeds, which also draw the labels. With all "
        f"labels: one run each; one image is 0.28 points. The schedules were tuned on these images, which flatters the "
        f"ViTs. Best single run, by these same images: "
        f"{ROWS[best['start']]}, {LABELS[best['labels']]}, seed {best['seed']}: {best['top1']:.1f} %; exported to "
        f"{html.escape(results['export'])}. This start of the demo took {results['seconds'] / 60:.1f} minutes "
        f"({results['cpu_seconds'] / 60:.1f} of CPU time); finished runs are not repeated.",
        figures="\n".join(_figure(folder / f"{name}.png", text) for name, text in captions.items()),
        count=len(commands),
        commands=html.escape("\n".join(commands)),
    )


def _html_table(results: Mapping[str, Any]) -> str:
    rows = [line.strip("| ").split(" | ") for line in table(results).splitlines()]
    del rows[1]
    tags = ["th"] + ["td"] * (len(rows) - 1)
    cells = ["".join(f"<{tag}>{cell.strip()}</{tag}>" for cell in row) for tag, row in zip(tags, rows, strict=True)]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def _figure(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    alt = html.escape(caption)
    return f'<figure><img src="data:image/png;base64,{data}" alt="{alt}"><figcaption>{alt}</figcaption></figure>'
