"""The charts of the observation: accuracy by labels and by layer, CKA, attention."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from lvit_jax.bin.figures import COLOURS, SHADES
from lvit_jax.bin.observation_findings import MEASURES, NAMES, block_means, by_layer, diagonal, pools
from lvit_jax.bin.observation_plan import ALL, STARTS

# Colour and marker, so that lines are told apart without colour, too.
LOOKS = {
    "scratch": (COLOURS[1], "s"),
    "mae": (COLOURS[0], "o"),
    "moco": (COLOURS[3], "^"),
    "d2": (COLOURS[2], "D"),
    "untrained": ("#8a8a8a", "x"),
}
POOLS = {"mean": "mean of the patches", "cls": "CLS token"}


def _look(name: str) -> dict[str, Any]:
    colour, marker = LOOKS[name]
    return {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.6}


def _panels(count: int, height: float = 3.0, **options: Any) -> tuple[plt.Figure, Sequence[plt.Axes]]:
    width = 3.2 * count + 1.6 if count > 1 else 5.6  # legends stand beside
    figure, panels = plt.subplots(1, count, figsize=(width, height), layout="constrained", squeeze=False, **options)
    for panel in panels[0]:
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels[0]


def _legend(panel: plt.Axes) -> None:
    names = panel.get_legend_handles_labels()
    panel.figure.legend(*names, loc="outside right center", frameon=False, fontsize=8)


def accuracy(results: Mapping[str, Any]) -> plt.Figure:
    """Fine-tuned accuracy by number of labels; bars are one standard deviation, dots of each start side by side."""
    figure, (panel,) = _panels(1)
    table = results["accuracy"]
    ticks = [str(results["images"]) + "\n(all)" if labels == ALL else labels for labels in table]
    for i, start in enumerate(STARTS):
        x = np.arange(len(table)) + 0.08 * (i - 1.5)
        rows = [rows[start] for rows in table.values()]
        means, spread = [row["mean"] for row in rows], [row["sd"] or 0.0 for row in rows]
        panel.errorbar(x, means, yerr=spread, capsize=3, label=STARTS[start], **_look(start))
    panel.set_xticks(range(len(ticks)), ticks)
    panel.set_xlabel("labels")
    panel.set_ylabel("top-1, %")
    _legend(panel)
    return figure


def layers(results: Mapping[str, Any], measure: str) -> plt.Figure:
    """Accuracy of frozen features by layer, a panel per pooling."""
    ways = pools(results["layers"])
    figure, panels = _panels(len(ways), sharey=True)
    for panel, pool in zip(panels, ways, strict=True):
        for name, rows in results["layers"].items():
            panel.plot(by_layer(rows, measure, pool), label=NAMES[name], **_look(name))
        panel.set_title(POOLS[pool])
        panel.set_xlabel("layer")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel(f"{measure}, top-1, %")
    _legend(panels[0])
    return figure


def cka(results: Mapping[str, Any]) -> plt.Figure:
    """CKA of each layer to the supervised model's layer of the same number."""
    figure, (panel,) = _panels(1)
    for name, matrix in results["cka"].items():
        if name != "scratch":
            panel.plot(diagonal(matrix), label=NAMES[name], **_look(name))
    panel.set_xlabel("layer of both")
    panel.set_ylabel("CKA to the supervised model")
    panel.set_ylim(0, 1.02)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(panel)
    return figure


def matrices(results: Mapping[str, Any]) -> plt.Figure:
    """CKA of all pairs of layers."""
    found = results["cka"]
    size = (2.1 * len(found) + 0.8, 2.5)
    figure, panels = plt.subplots(1, len(found), figsize=size, layout="constrained", sharey=True)
    for panel, (name, matrix) in zip(panels, found.items(), strict=True):
        image = panel.imshow(np.array(matrix, float), vmin=0, vmax=1, cmap=SHADES, origin="lower")
        panel.set_title(NAMES[name])
        panel.set_xlabel("layer, supervised")
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        panel.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    panels[0].set_ylabel("layer of the model")
    figure.colorbar(image, ax=panels, label="CKA", shrink=0.8)
    return figure


def attention(results: Mapping[str, Any], what: str, label: str) -> plt.Figure:
    """A figure of attention by block: lines through the means of the heads, which are small dots."""
    figure, (panel,) = _panels(1)
    for name, blocks in results[what].items():
        x = np.arange(1, len(blocks) + 1)
        panel.plot(x, block_means(blocks), label=NAMES[name], **_look(name))
        for at, heads in zip(x, blocks, strict=True):
            panel.plot([at] * len(heads), heads, ".", color=LOOKS[name][0], markersize=3, alpha=0.7)
    panel.set_xlabel("block")
    panel.set_ylabel(label)
    panel.set_ylim(bottom=0)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(panel)
    return figure


def draw_all(results: Mapping[str, Any]) -> dict[str, Any]:
    """{name: function that draws the chart}"""
    charts = {"accuracy": lambda: accuracy(results)}
    charts |= {f"layers {measure}": lambda measure=measure: layers(results, measure) for measure in MEASURES}
    charts |= {"cka": lambda: cka(results), "matrices": lambda: matrices(results)}
    charts["entropy"] = lambda: attention(results, "entropy", "entropy of attention, nats")
    charts["distance"] = lambda: attention(results, "distance", "distance of attention, pixels")
    return charts
