"""What `lvit train --grid` leaves: grid.json, grid.png, a table, and the command that trains with the best settings."""

import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from lvit_jax.bin import app
from lvit_jax.errors import Stopped
from lvit_jax.tree import flatten

FIGURES = ("top1", "top5", "mean_per_class", "loss")


class Cell(NamedTuple):
    """One run of the grid: a name for its folder, the fields that it sets, as typed, and the whole config."""

    name: str
    settings: dict[str, str]
    config: ConfigDict


def report(
    cells: Sequence[Cell], scores: Sequence[dict[str, Any]], argv: Sequence[str], workdir: str, as_json: bool
) -> None:
    """Writes grid.json and grid.png, each whole or not at all, and prints."""
    from etils import epath

    from lvit_jax.bin.grid_chart import heat_map
    from lvit_jax.training.record import write_json, write_whole

    found = result(cells, scores, argv)
    write_whole(epath.Path(workdir) / "grid.png", heat_map(found))
    write_json(epath.Path(workdir) / "grid.json", found)
    if as_json:
        app.report(found, as_json)
    else:
        print(table(found))


def result(cells: Sequence[Cell], scores: Sequence[dict[str, Any]], argv: Sequence[str]) -> dict[str, Any]:
    """grid.json: settings and figures of every cell, the best by top-1 (then by loss), and its command.

    Args:
      scores: the figures of each cell, or {"stopped": why}.
      argv: the command line of the grid.

    Raises:
      Stopped: no cell came to its end.
    """
    finished = [i for i, score in enumerate(scores) if "stopped" not in score]
    if not finished:
        raise Stopped(f"all {len(cells)} cells of the grid stopped, the first so: {scores[0]['stopped']}")
    best = max(finished, key=lambda i: (scores[i]["top1"], -scores[i]["loss"]))
    count = scores[best]["examples"]
    return {
        "scored_on": f"{count} training images that no cell trained on (one is {100 / count:.2g} points)",
        "cells": [_row(cell, score) for cell, score in zip(cells, scores, strict=True)],
        "best": cells[best].name,
        "command": last_command(argv, cells[best].settings),
    }


def _row(cell: Cell, score: dict[str, Any]) -> dict[str, Any]:
    fields = {key.replace("/", "."): value for key, value in flatten(cell.config.to_dict()).items()}
    kept = {key: score[key] for key in ("stopped", *FIGURES) if key in score}
    return {"name": cell.name, "settings": {key: fields[key] for key in cell.settings}, **kept}


def last_command(argv: Sequence[str], settings: dict[str, str]) -> str:
    """The command line without the grid and its hold-out, with the best settings in the place of others."""
    gone = {"--grid", "--json", "--config.data.tune", *(f"--config.{key}" for key in settings)}
    apart = {i + 1 for i, arg in enumerate(argv) if arg == "--grid"}  # its value, where no '=' joins them
    kept = [arg for i, arg in enumerate(argv) if arg.split("=")[0] not in gone and i not in apart]
    return shlex.join(["lvit", "train", *kept, *(f"--config.{key}={text}" for key, text in settings.items())])


def table(found: dict[str, Any]) -> str:
    """The cells as a table, and the command of the best."""
    rows = [[*(key.split(".")[-1] for key in found["cells"][0]["settings"]), *FIGURES, ""]]
    for row in found["cells"]:
        figures = ["-" if "stopped" in row else f"{row[name]:.4g}" for name in FIGURES]
        mark = "<- best" if row["name"] == found["best"] else "stopped" if "stopped" in row else ""
        rows.append([*map(str, row["settings"].values()), *figures, mark])
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{text:>{w}}" for text, w in zip(row, wide, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, f"scored on {found['scored_on']}; now:", "", found["command"]])
