"""`lvit train --grid`: tries settings on a held-out part of the training images, and prints the command of the best.

Every cell of the grid is an ordinary run in WORKDIR/grid/<name>. It trains on a part of the training images and is
scored by top-1 on the rest (`data.tune`), never on validation or test images. The same command again goes on.
"""

import copy
import itertools
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from lvit_jax.bin import distributed, flags, grid_report
from lvit_jax.bin.grid_report import Cell
from lvit_jax.errors import InputError, nearest
from lvit_jax.objectives import CLASSIFIERS
from lvit_jax.tree import flatten

TUNE = 0.2  # of the training images where data.tune does not say: VTAB's 200 of 1,000 (arXiv:1910.04867)
RATES = (0.01, 0.03, 0.1)  # peaks at the config's batch; with the decays: recipes 6
DECAYS = (0.65, 0.75, 0.85, 1.0)


def make_cells(text: str, config: ConfigDict) -> list[Cell]:
    """The cells of `--grid=blr,layer_decay` or `--grid='blr=0.015,0.05;train.epochs=50,100'`, checked without jax.

    Raises:
      InputError: no classifier; no, unknown, doubled or more than two fields; a field without values; a wrong value.
    """
    if config.objective.name not in CLASSIFIERS:
        raise InputError(f"--grid is scored by accuracy, and objective {config.objective.name!r} has none")
    axes = read_axes(text, config)
    config = copy.deepcopy(config)
    if config.data.tune is None:
        config.data.tune = TUNE
    cells = [_cell(dict(zip(axes, values, strict=True)), config) for values in itertools.product(*axes.values())]
    if len({cell.name for cell in cells}) < len(cells):
        raise InputError(f"--grid={text} has a value twice")
    return cells


def _cell(settings: dict[str, str], config: ConfigDict) -> Cell:
    name = "_".join(re.sub(r"[^\w.+-]", "_", key.split(".")[-1] + text) for key, text in settings.items())
    overrides = [f"--config.{key}={text}" for key, text in settings.items()]
    return Cell(name, settings, flags.check(flags.override(copy.deepcopy(config), overrides)))


def read_axes(text: str, config: ConfigDict) -> dict[str, tuple[str, ...]]:
    """{'optim.blr': ('0.015', '0.05'), ...}: fields by their full names, values as typed."""
    parts = [part for piece in text.split(";") for part in ([piece] if "=" in piece else piece.split(","))]
    axes: dict[str, tuple[str, ...]] = {}
    for part in parts:
        name, given, values = part.strip().partition("=")
        key = _key(name, config)
        if key in axes:
            raise InputError(f"--grid names {key!r} twice")
        axes[key] = tuple(value.strip() for value in values.split(",")) if given else _usual(key, config)
    if len(axes) > 2:
        raise InputError(f"--grid has {len(axes)} fields ({', '.join(axes)}); it takes one or two")
    return axes


def _key(name: str, config: ConfigDict) -> str:
    """The full name of a field that is named in full, or by a last part that no other field has."""
    keys = [key.replace("/", ".") for key in flatten(config.to_dict())]
    found = [key for key in keys if name in (key, key.split(".")[-1])]
    if not found:
        hint = nearest(name, [*keys, *(key.split(".")[-1] for key in keys)])
        raise InputError(f"--grid: unknown config key {name!r}{hint}; --help lists the fields")
    if len(found) > 1 and name not in found:
        raise InputError(f"--grid: {name!r} may be {' or '.join(found)}; write it in full")
    return name if name in found else found[0]


def _usual(key: str, config: ConfigDict) -> tuple[str, ...]:
    """The values that are tried where none are given."""
    usual = {
        "optim.blr": [f"{rate * 256 / config.train.batch_size:.6g}" for rate in RATES],
        "optim.layer_decay": [f"{decay:g}" for decay in DECAYS],
    }
    if key not in usual:
        short = key.split(".")[-1]
        raise InputError(f"--grid: no usual values are known for {key!r}; write --grid={short}=VALUE,VALUE")
    return tuple(usual[key])


def check_place(workdir: str) -> None:
    """Raises InputError where a run that is no grid's last training is there: the one to come could not go there."""
    from etils import epath

    place = epath.Path(workdir)
    if (place / "config.json").exists() and not (place / "grid").exists():
        raise InputError(f"--workdir={workdir} holds a run already; name a new folder for --grid and its last training")


def search(cells: Sequence[Cell], workdir: str, argv: Sequence[str], train: Callable, as_json: bool) -> int:
    """Trains and scores every cell, then writes grid.json and grid.png and prints the table and the last command.

    Args:
      argv: the command line, for the last command.
      train: (config, workdir) -> whether the run came to its end.

    Returns:
      The exit code; where a cell was preempted nothing is written, and the same command goes on.
    """
    from etils import epath

    scores, spent = [], []
    for number, cell in enumerate(cells, 1):
        folder = epath.Path(workdir) / "grid" / cell.name
        if distributed.is_first():
            print(progress(number, len(cells), spent) + f": {cell.name}", file=sys.stderr, flush=True)
        began, fresh = time.perf_counter(), not folder.exists()
        score = _score(cell, str(folder), train)
        if score is None:
            return 0
        scores.append(score)
        if fresh:  # what a stopped grid had finished takes no time, and says nothing of the others
            spent.append(time.perf_counter() - began)
    if distributed.is_first():
        grid_report.report(cells, scores, argv, workdir, as_json)
    return 0


def _score(cell: Cell, folder: str, train: Callable) -> dict[str, Any] | None:
    """The figures of a cell, with why it stopped where its loss became non-finite; None where it was preempted."""
    from lvit_jax.build.trained import evaluate_classifier, load_trained
    from lvit_jax.training.loop import NonFinite
    from lvit_jax.training.mesh import check_shared

    try:
        if not train(cell.config, folder):
            return None
    except NonFinite as error:  # the highest rate of a grid may well be too high: that is an answer
        return {"stopped": str(error)}
    check_shared(folder)  # which waits for all: process 0 has committed what the others are going to read
    return evaluate_classifier(load_trained(folder), None, None, None, None)


def progress(number: int, count: int, spent: Sequence[float]) -> str:
    """'cell 3 of 12, about 4 min left', from the seconds that the cells before took."""
    if not spent:
        return f"cell {number} of {count}"
    left = sum(spent) / len(spent) * (count - number + 1)
    return f"cell {number} of {count}, about {f'{left / 60:.0f} min' if left >= 90 else f'{left:.0f} s'} left"
