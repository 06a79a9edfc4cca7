"""What `lvit eval_probe` found: the table, probe.json, and accuracy by layer as PNG and SVG."""

from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from lvit_jax.training.record import write_json, write_whole

# Okabe and Ito's colours, which the colour-blind tell apart, in a shade that stands out from white and from black.
COLOURS = {"mean": "#0072B2", "cls": "#D55E00"}
MARKS = {"knn": ("--", "o"), "linear": ("-", "s")}
GREY = "#808080"  # 3.9 : 1 on white, 5.3 : 1 on black


def table(figures: Mapping[str, Any]) -> str:
    """Top-1 in percent, a line per layer and pooling."""
    columns: dict[str, Callable] = {"layer": lambda row: f"{row['layer']}", "pool": lambda row: row["pool"]}
    for k in figures["rows"][0]["knn"]:
        columns[f"{k}-NN"] = lambda row, k=k: f"{row['knn'][k]['top1']:.1f}"
    if "linear" in figures["rows"][0]:
        columns["linear"] = lambda row: f"{row['linear']['top1']:.1f}"
    lines = [list(columns), *([cell(row) for cell in columns.values()] for row in figures["rows"])]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines)
    about = f"top-1, %, of {figures['examples']} images of {figures['source']} ({figures['val_split']}), "
    return about + f"{figures['bank']} labelled ones ({figures['train_split']}) to learn from\n{text}"


def write(folder: epath.PathLike, figures: Mapping[str, Any]) -> None:
    """Writes probe.json, probe.png and probe.svg into a folder, each whole or not at all."""
    for kind, data in chart(figures).items():
        write_whole(epath.Path(folder) / f"probe.{kind}", data)
    write_json(epath.Path(folder) / "probe.json", figures)


def chart(figures: Mapping[str, Any]) -> dict[str, bytes]:
    """{'png', 'svg'}: top-1 by layer; a line per pooling and kind of probe, of k-NN that with the first k."""
    import io

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    rows, first = figures["rows"], next(iter(figures["rows"][0]["knn"]))
    values = {"knn": lambda row: row["knn"][first]["top1"], "linear": lambda row: row["linear"]["top1"]}
    words = {"knn": f"{first}-NN", "linear": "linear probe"}
    for kind, (line, mark) in MARKS.items():
        for pool, colour in COLOURS.items():
            chosen = [row for row in rows if row["pool"] == pool and kind in row]
            points = [row["layer"] for row in chosen], [values[kind](row) for row in chosen]
            if chosen:
                axes.plot(*points, line, marker=mark, color=colour, label=f"{words[kind]}, {pool}")
    axes.set_xticks(sorted({row["layer"] for row in rows}))
    axes.set_xlabel("layer (0: patch embedding)")
    axes.set_ylabel("top-1 accuracy, %")
    _grey(axes)
    made = {}
    for kind in ("png", "svg"):
        with io.BytesIO() as file:
            figure.savefig(file, format=kind, dpi=150, transparent=True)
            made[kind] = file.getvalue()
    plt.close(figure)
    return made


def _grey(axes: Any) -> None:
    """Axes and words that can be read on white and on black paper."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=GREY)
    axes.xaxis.label.set_color(GREY)
    axes.yaxis.label.set_color(GREY)
    axes.grid(axis="y", color=GREY, alpha=0.25)
    axes.legend(frameon=False, labelcolor=GREY)
