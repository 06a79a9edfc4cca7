"""The heat map of a grid, as a PNG file."""

import io
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np


def heat_map(found: dict[str, Any]) -> bytes:
    """Top-1 of every cell, the first field downwards and the second to the right; the best one framed."""
    settings = [[(key, str(value)) for key, value in row["settings"].items()] for row in found["cells"]]
    (down, downs), (right, rights) = (_axis(settings, i) for i in (0, 1))
    scores = np.array([np.nan if "stopped" in row else row["top1"] for row in found["cells"]])
    scores = scores.reshape(len(downs), len(rights))
    figure, panel = plt.subplots(figsize=(2.6 + 1.1 * len(rights), 1.6 + 0.7 * len(downs)), layout="constrained")
    picture = panel.imshow(scores, cmap="cividis", aspect="auto")  # read alike by the colour-blind
    middle = (np.nanmin(scores) + np.nanmax(scores)) / 2
    best = [row["name"] for row in found["cells"]].index(found["best"])
    for i, score in enumerate(scores.flat):
        y, x = divmod(i, len(rights))
        colour, weight = ("white" if score < middle else "black"), ("bold" if i == best else "normal")
        text = "stopped" if np.isnan(score) else f"{score:.1f}"
        panel.text(x, y, text, ha="center", va="center", color=colour, weight=weight, fontsize=12)
    y, x = divmod(best, len(rights))
    panel.add_patch(plt.Rectangle((x - 0.47, y - 0.46), 0.94, 0.92, fill=False, edgecolor="#D55E00", linewidth=3))
    panel.set_xticks(range(len(rights)) if right else [], rights if right else [])
    panel.set_yticks(range(len(downs)), downs)
    panel.set_xlabel(right)
    panel.set_ylabel(down)
    figure.colorbar(picture, label="top-1 on held-out\ntraining images, %")
    return _png(figure)


def _axis(settings: list[list[tuple[str, str]]], place: int) -> tuple[str, list[str]]:
    """Name and values of the first or second field; a grid of one field has one nameless column."""
    if place >= len(settings[0]):
        return "", [""]
    return settings[0][place][0].split(".")[-1], list(dict.fromkeys(row[place][1] for row in settings))


def _png(figure: plt.Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120, facecolor="white")  # its own ground, on dark pages too
    plt.close(figure)
    return file.getvalue()
