"""The observation's report: one HTML page that carries its charts inside, and all numbers as JSON."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lvit_jax.bin import observation_charts
from lvit_jax.bin.demo_report import cell_text
from lvit_jax.bin.figures import STYLES, render
from lvit_jax.bin.observation_findings import MEASURES, NAMES, block_means, by_layer, diagonal, pools
from lvit_jax.bin.observation_plan import ALL, METHODS, STARTS, Plan

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>lvit observation</title>
<style>
:root {{ color-scheme: light dark; --ink: {light[text.color]}; --paper: {light[figure.facecolor]}; --line: #ccc }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: {dark[text.color]}; --paper: {dark[figure.facecolor]}; --line: #555 }}
}}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem }}
body {{ color: var(--ink); background: var(--paper) }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem }}
td, th {{ padding: .2rem .8rem; border-bottom: 1px solid var(--line); text-align: right }}
td:first-child, th:first-child {{ text-align: left; white-space: nowrap }}
figure {{ margin: 1rem 0 2rem; display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start }}
figcaption {{ flex-basis: 100% }} img {{ max-width: 100%; height: auto }} pre {{ overflow-x: auto }}
</style>
<h1>What equal updates teach a small vision transformer</h1>
<p>{about}</p>
<h2>What came out</h2>
<ul>{findings}</ul>
<h2>What pre-training took</h2>
{cost}
<p>{cost_note}</p>
{figures}
<details><summary>The {count} commands</summary><pre>{commands}</pre></details>
</html>
"""
COST_NOTE = (
    "All three methods make equal updates of the student on equal images, {batch} an update; MoCo-v3 "
    "crops each image twice, so that its encoder sees twice as many crops. FLOPs are those of "
    "matrix products, forward and backward (lvit_jax/training/flops.py); decoder, predictor and MoCo's momentum "
    "encoder are counted with the student. Seconds are those of the steps on this machine, without compiling and "
    "evaluating; D²-MAE's hold its teacher's forward passes. The model from scratch has no pre-training."
)
CAPTIONS = {
    "accuracy": "Fine-tuned top-1 accuracy, %, on the {val_images} validation images: mean ± standard deviation over "
    "{seeds} seeds, which also draw the labels; with all labels one run each. Pre-training has one seed (0): the "
    "spread is not that of pre-training. All starts are fine-tuned by one schedule.",
    "layers": "{measure}: accuracy of frozen features by layer, top-1, %: layer 0 is the patch embedding, the last one "
    "the end of the encoder. The supervised model saw the labels of the training images; the others did not.",
    "cka": "Linear CKA between layers of the same number, of each model and of the supervised one, on {cka_images} "
    "validation images (unbiased, mini-batches).",
    "matrices": "The same between all pairs of layers.",
    "entropy": "Entropy of patch-to-patch attention by block, nats; dots are heads, the table has their means.",
    "distance": "Mean distance between a patch and what it attends to, pixels.",
}


def write(plan: Plan, results: Mapping[str, Any]) -> Path:
    """Writes report/observation.json, the charts and report/index.html; returns the page."""
    folder = plan.root / "report"
    folder.mkdir(parents=True, exist_ok=True)
    charts = {name: render(_file(name), draw) for name, draw in observation_charts.draw_all(results).items()}
    for files in charts.values():
        for name, contents in files.items():
            (folder / name).write_bytes(contents)
    _write(folder / "observation.json", json.dumps(results, indent=1))
    _write(folder / "index.html", page(results, charts))
    return folder / "index.html"


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text + "\n")
    part.replace(path)


def _file(name: str) -> str:
    return name.replace(" ", "_")


def page(results: Mapping[str, Any], charts: Mapping[str, Mapping[str, bytes]]) -> str:
    """The HTML page. `charts`: name -> what `figures.render` made of it."""
    tables = _tables(results)
    figures = []
    for name, files in charts.items():
        kind, _, measure = name.partition(" ")
        caption = CAPTIONS[kind].format(**results, measure=measure)
        figures.append(_figure(_file(name), files, caption, tables.get(name)))
    return PAGE.format(
        light=STYLES[""],
        dark=STYLES["_dark"],
        about=html.escape(_about(results)),
        findings="".join(f"<li>{html.escape(text)}</li>" for text in results["findings"]),
        cost=_table(*_cost(results["cost"])),
        cost_note=COST_NOTE.format(batch=results["batch_size"]),
        figures="\n".join(figures),
        count=len(results["commands"]),
        commands=html.escape("\n".join(results["commands"])),
    )


def _about(results: Mapping[str, Any]) -> str:
    model = results["model"]
    seeds = ", ".join(map(str, range(results["seeds"])))
    return (
        f"{model['name']} on {model['image_size']} px images of {results['source']}: {results['images']} to train on, "
        f"{results['val_images']} to validate on, {results['classes']} classes. Pre-trained without labels for "
        f"{results['steps']} updates of {results['batch_size']} images by {', '.join(METHODS.values())} (seed 0); then "
        f"fine-tuned, with as many updates on all labels (seed 0) and a quarter of them on few (seeds {seeds}). The "
        f"model from scratch on all labels is the supervised model below. One small model, one data set, short runs: "
        f"this shows what came out here, and how to look."
    )


def _cost(cost: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    head = ["method", "updates", "images", "crops of each", "student GFLOP", "teacher in them, GFLOP", "seconds"]
    head += ["teacher's own training, GFLOP", "and seconds"]
    rows = []
    for name, label in METHODS.items():
        own, teacher = cost[name], cost["teacher"]
        row = [label, str(own["updates"]), str(own["images"]), str(own["views"]), _giga(own["student_flops"])]
        row += [_giga(own["teacher_flops"]) if name == "d2" else "–", f"{own['seconds']:.0f}"]
        row += [_giga(teacher["student_flops"]), f"{teacher['seconds']:.0f}"] if name == "d2" else ["–", "–"]
        rows.append(row)
    return head, rows


def _giga(flops: float) -> str:
    return f"{flops / 1e9:,.0f}" if flops > 1e11 else f"{flops / 1e9:.3g}"


def _tables(results: Mapping[str, Any]) -> dict[str, str]:
    """{name of a chart: the numbers in it}"""
    labels = list(results["accuracy"])
    rows = [[STARTS[s], *(cell_text(results["accuracy"][n][s]) for n in labels)] for s in STARTS]
    tables = {"accuracy": _table(["labels", *("all" if n == ALL else n for n in labels)], rows)}
    for measure in MEASURES:
        rows = [
            [f"{NAMES[name]}, {pool}", *(f"{top1:.1f}" for top1 in by_layer(found, measure, pool))]
            for pool in pools(results["layers"])
            for name, found in results["layers"].items()
        ]
        tables[f"layers {measure}"] = _numbered("layer", 0, rows)
    rows = [
        [NAMES[name], *(f"{x:.3f}" for x in diagonal(m))] for name, m in results["cka"].items() if name != "scratch"
    ]
    tables["cka"] = _numbered("layer", 0, rows)
    rows = [
        [f"{NAMES[name]}, layer {layer}", *(f"{x:.3f}" for x in row)]
        for name, matrix in results["cka"].items()
        for layer, row in enumerate(matrix)
    ]
    tables["matrices"] = f"<details><summary>The numbers</summary>{_numbered('layer, supervised', 0, rows)}</details>"
    for what in ("entropy", "distance"):
        rows = [[NAMES[name], *(f"{x:.2f}" for x in block_means(b))] for name, b in results[what].items()]
        tables[what] = _numbered("block", 1, rows)
    return tables


def _numbered(what: str, first: int, rows: Sequence[Sequence[str]]) -> str:
    width = max(map(len, rows)) - 1
    return _table([what, *(str(first + i) for i in range(width))], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["".join(f"<th>{html.escape(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _figure(name: str, files: Mapping[str, bytes], caption: str, table: str | None) -> str:
    light, dark = (_uri(files[f"{name}{suffix}.svg"]) for suffix in STYLES)
    alt = html.escape(caption)
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
    picture = f'<picture>{source}<img src="{light}" alt="{alt}"></picture>'
    return f"<figure>{picture}{table or ''}<figcaption>{alt}</figcaption></figure>"


def _uri(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
