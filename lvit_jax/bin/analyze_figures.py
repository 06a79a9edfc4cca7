"""The figures of `lvit analyze`: CKA matrices, box plots of heads, attention maps."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from lvit_jax.bin.figures import COLOURS, INK, PAPER, SHADES
from lvit_jax.build.maps import Maps

AXES = {"distance": "attention distance, pixels", "entropy": "attention entropy, nats"}
WRITTEN = 8  # layers up to which the numbers stand in the matrix
WIDTH = 2.6  # inches of a panel: three make the width of a page


def cka(pairs: Sequence[Mapping[str, Any]]) -> plt.Figure:
    """One matrix per pair: layers of the first model to the right, of the other one upwards, one scale for all."""
    figure, panels = _row(len(pairs), 2.6)
    for panel, pair in zip(panels, pairs, strict=True):
        matrix = np.array(pair["rows_are_layers_of_y"], float)
        image = panel.imshow(matrix, vmin=0, vmax=1, cmap=SHADES, origin="lower")
        panel.set_xlabel(f"layer of {pair['x']}")
        panel.set_ylabel(f"layer of {pair['y']}")
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(MaxNLocator(6, integer=True))
        panel.spines[:].set_visible(False)
        if max(matrix.shape) <= WRITTEN:
            _write_values(panel, matrix)
    figure.colorbar(image, ax=panels, label="linear CKA", shrink=0.8)
    return figure


def _write_values(panel: plt.Axes, matrix: np.ndarray) -> None:
    for (y, x), value in np.ndenumerate(matrix):
        panel.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=6, color=INK if value > 0.5 else PAPER)


def heads(models: Sequence[Mapping[str, Any]], what: str) -> plt.Figure:
    """Box plots of the heads of every block, one panel per model; a head is a dot.

    Args: what: a key of `AXES`.
    """
    figure, panels = _row(len(models), 2.4, sharey=True)
    for i, (panel, model) in enumerate(zip(panels, models, strict=True)):
        colour, blocks = COLOURS[i % len(COLOURS)], model[what]
        line = {"color": colour}
        panel.boxplot(
            blocks,
            positions=range(1, len(blocks) + 1),
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": colour + "40", "edgecolor": colour},
            medianprops=line | {"linewidth": 2},
            whiskerprops=line,
            capprops=line,
        )
        for number, values in enumerate(blocks, start=1):
            panel.plot([number] * len(values), values, ".", color=plt.rcParams["text.color"], markersize=2.5, zorder=3)
        panel.xaxis.set_major_locator(MaxNLocator(12, integer=True))
        panel.xaxis.set_major_formatter("{x:.0f}")
        panel.set_xlim(0.3, len(blocks) + 0.7)
        panel.set_xlabel("block")
        panel.set_title(model["label"])
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel(AXES[what])
    return figure


def maps(label: str, found: Maps) -> plt.Figure:
    """A row per image and query: the image with the query's patch framed, then the map of each head, bilinear."""
    count, queries, heads = found.weights.shape[:3]
    size = (1.0 * (heads + 1), 1.0 * count * queries + 0.35)
    figure, grid = plt.subplots(count * queries, heads + 1, figsize=size, layout="constrained", squeeze=False)
    for row, panels in enumerate(grid):
        image, (y, x) = found.images[row // queries].squeeze(), found.queries[row % queries]
        _picture(panels[0], image, found.patch, y, x)
        for head, panel in enumerate(panels[1:]):
            heat = found.weights[row // queries, row % queries, head]
            _heat(panel, heat, image.shape[:2])
            _frame(panel, found.patch, y, x)
    for head, panel in enumerate(grid[0]):
        panel.set_title(f"head {head}" if head else "image", fontsize=7)
    figure.suptitle(f"{label}, block {found.block}: each map from its own least to its largest", fontsize=8)
    return figure


def _picture(panel: plt.Axes, image: np.ndarray, patch: int, y: int, x: int) -> None:
    panel.imshow(image, cmap="gray", vmin=0, vmax=255)
    panel.set_axis_off()
    _frame(panel, patch, y, x)


def _heat(panel: plt.Axes, heat: np.ndarray, size: tuple[int, int]) -> None:
    """The map in the image's pixels; the renderer itself interpolates between the centres of the patches."""
    panel.imshow(heat, cmap=SHADES, interpolation="bilinear", extent=(-0.5, size[1] - 0.5, size[0] - 0.5, -0.5))
    panel.set_axis_off()


def _frame(panel: plt.Axes, patch: int, y: int, x: int) -> None:
    corner = (x * patch - 0.5, y * patch - 0.5)
    panel.add_patch(plt.Rectangle(corner, patch, patch, fill=False, edgecolor=COLOURS[-1], linewidth=1.2))


def _row(count: int, height: float, **options: Any) -> tuple[plt.Figure, Sequence[plt.Axes]]:
    size = (WIDTH * count + 0.8, height)
    figure, panels = plt.subplots(1, count, figsize=size, layout="constrained", squeeze=False, **options)
    return figure, panels[0]
