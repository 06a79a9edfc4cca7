"""What one sees while a run runs: the progress line, JSON lines, TensorBoard, pictures. Process 0 alone writes."""

import json
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

# Shown on the progress line, in this order, where a record has them; everything is in the JSON lines.
SHOWN = ("loss", "lr", "images_per_s", "data_wait", "eta")

MOST = 8  # figures of an evaluation on its line; the rest is in the files


def say(text: str) -> None:
    """One line on stderr from process 0; on a terminal it takes the place of the progress line."""
    if jax.process_index() == 0:
        clear = "\r\x1b[K" if sys.stderr.isatty() else ""
        print(clear + text, file=sys.stderr, flush=True)


class Report:
    """The writers of one start of a run; use as a context manager."""

    def __init__(self, workdir: epath.PathLike, start: int, steps: int, tensorboard: bool):
        """Opens workdir/metrics/<start>.jsonl (gs:// cannot append: one file per start) and the TensorBoard writer.

        The files of later starts go: they belong to a checkpoint that the run fell back from, and it does them again.
        """
        self._workdir, self._steps = epath.Path(workdir), steps
        self._lines = self._tensorboard = None
        if jax.process_index() == 0:
            folder = self._workdir / "metrics"
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.glob("*.jsonl"):
                if int(path.stem) > start:
                    path.unlink()
            self._lines = (folder / f"{start:08d}.jsonl").open("w")
            self._tensorboard = _tensorboard(self._workdir) if tensorboard else None

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._lines:
            self._lines.close()
        if self._tensorboard:
            self._tensorboard.close()
        if sys.stderr.isatty():
            print(file=sys.stderr)

    def train(self, step: int, scalars: Mapping[str, float]) -> None:
        """The figures of the steps since the last report: to the files, and as the progress line."""
        self._scalars(step, scalars)
        text = progress(step, self._steps, scalars)
        if sys.stderr.isatty() and jax.process_index() == 0:
            print("\r\x1b[K" + text, end="", file=sys.stderr, flush=True)
        else:
            say(text)

    def evaluation(self, name: str, step: int, results: Mapping[str, Any]) -> None:
        """What an Eval returned: scalars to the files as <name>/<key>, pictures [H,W,3] to workdir/figures as PNG."""
        pictures = {key: value for key, value in results.items() if np.ndim(value) == 3}
        scalars = {f"{name}/{key}": float(value) for key, value in results.items() if key not in pictures}
        self._scalars(step, scalars)
        self._pictures(name, step, pictures)
        if scalars:
            shown = [f"{key} {value:.4g}" for key, value in scalars.items()][:MOST]
            more = f"  and {len(scalars) - MOST} more in metrics/" if len(scalars) > MOST else ""
            say(f"step {step}  " + "  ".join(shown) + more)

    def _scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        if self._lines and scalars:
            self._lines.write(json.dumps({"step": step, **scalars}) + "\n")
            self._lines.flush()
        if self._tensorboard and scalars:
            self._tensorboard.write_scalars(step, dict(scalars))

    def _pictures(self, name: str, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        if not self._lines or not pictures:
            return
        folder = self._workdir / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        for key, picture in pictures.items():
            write_png(folder / f"{name}_{key}_{step}.png", picture)
        if self._tensorboard:
            self._tensorboard.write_images(step, {f"{name}/{k}": np.asarray(v)[None] for k, v in pictures.items()})


def _tensorboard(workdir: epath.Path) -> Any:
    # Here and not above: it imports tensorflow, which takes seconds.
    from clu import metric_writers

    return metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(workdir / "tensorboard")))


def write_png(path: epath.PathLike, picture: np.ndarray) -> None:
    """Writes a uint8 array [H,W,3] as a PNG file."""
    from PIL import Image

    with epath.Path(path).open("wb") as file:
        Image.fromarray(np.asarray(picture)).save(file, format="PNG")


def clock(seconds: float) -> str:
    """312.7 -> '0:05:12'."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def progress(step: int, steps: int, scalars: Mapping[str, float]) -> str:
    """'step 40/1000  loss 0.9172  lr 0.0012  images/s 3100  data wait 2%  left 0:05:12'."""
    words = {
        "loss": lambda x: f"loss {x:.4f}",
        "lr": lambda x: f"lr {x:.2e}",
        "images_per_s": lambda x: f"images/s {x:.0f}",
        "data_wait": lambda x: f"data wait {x:.0%}",
        "eta": lambda x: f"left {clock(x)}",
    }
    shown = [words[key](scalars[key]) for key in SHOWN if key in scalars]
    return "  ".join([f"step {step}/{steps}", *shown])


def read_metrics(workdir: epath.PathLike) -> list[dict[str, float]]:
    """The JSON lines of a run over all its starts, by step; what a later start did again replaces what it redid."""
    records: list[dict[str, float]] = []
    for path in sorted((epath.Path(workdir) / "metrics").glob("*.jsonl"), key=lambda path: path.name):
        records = [record for record in records if record["step"] <= int(path.stem)]
        records += [json.loads(line) for line in path.read_text().splitlines()]
    return records
