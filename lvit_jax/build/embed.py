"""The workdir of a model and images -> a table of features, made part by part, so that it can be stopped and go on."""

import json
import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from lvit_jax.build.backbone import Backbone, make_features, transform
from lvit_jax.build.data import device_batches
from lvit_jax.build.parts import image_shape
from lvit_jax.build.table import MERGE, Table, read_part, write_part
from lvit_jax.data.source import Source
from lvit_jax.errors import InputError, Stopped
from lvit_jax.models.features import layers
from lvit_jax.models.heads import pool
from lvit_jax.training import mesh as mesh_lib
from lvit_jax.training.record import write_json
from lvit_jax.training.report import clock
from lvit_jax.tree import tree_hash
from lvit_jax.types import Tree

ROWS = 2048  # images of a part: what a stop may cost
COMMAND = "command.json"  # in the folder of the parts: what they are parts of
log = logging.getLogger(__name__)


class Choice(NamedTuple):
    """Which features."""

    layer: int  # as `features.layers` counts
    pool: str  # "mean", "cls" or "dist"


def choose(model: Backbone, layer: int | None, how: str) -> Choice:
    """The layer (the last where None; from the end where negative) and the pooling.

    Raises:
      InputError: a layer or a token that the model does not have.
    """
    last = model.layers - 1
    chosen = last if layer is None else layer + model.layers * (layer < 0)
    if not 0 <= chosen <= last:
        raise InputError(
            f"--layer={layer}, but {model.name} has layers 0 to {last} (or -1 to {-last - 1} from the end)"
        )
    if how == "dist" and "dist_token" not in model.params["encoder"]:  # heads let CLS play its part
        raise InputError(f"--pool=dist, but {model.name} has no distillation token; nearest: --pool=cls")
    choice = Choice(chosen, how)
    blank = jnp.zeros((1, *image_shape(model.config["model"])))
    jax.eval_shape(make_step(model, choice), model.params, blank)  # a Swin, say, has no CLS token
    return choice


def make_step(model: Backbone, choice: Choice) -> Callable[[Tree, jax.Array], jax.Array]:
    """(params, images [B,H,W,C]) -> float32 [B,D]; pure."""
    features = make_features(model)

    def step(params: Tree, images: jax.Array) -> jax.Array:
        found = features(params, images)
        return pool(found.replace(tokens=layers(found)[choice.layer]), choice.pool)

    return step


def embed(model: Backbone, source: Source, choice: Choice, size: int, out: epath.Path) -> dict[str, Any]:
    """Writes the features of every readable image of a source, in its order, to `out`, whole or not at all.

    Parts of `ROWS` images lie in `out`.parts until all are there. Of several processes the first one writes.

    Args: size: of a batch, over all devices; out: NAME.parquet or NAME.npz.

    Returns:
      {'images', 'unreadable', 'width'}.

    Raises:
      InputError: parts of another command are there, or a batch does not divide over the devices.
      Stopped: no image could be read.
    """
    mesh, parts = mesh_lib.make_mesh(), out.with_name(out.name + ".parts")
    mesh_lib.check_batch(size, mesh)
    mesh_lib.check_shared(out.parent)
    writes = mesh_lib.this_process()["process"] == 0
    about = _about(model, source, choice)
    done = _parts_of(parts, about)
    mesh_lib.check_alike({"the images": source.fingerprint, "the weights": about["weights"], "the parts": done})
    if writes:
        write_json(parts / COMMAND, about)
    names = [f"{number:06d}.npz" for number in range(-(-source.size // ROWS))]
    progress = Progress(source.size, sum(_rows(source, name).size for name in done))
    step = jax.jit(make_step(model, choice))
    for name in sorted(set(names) - set(done)):
        rows = _rows(source, name)
        table = _table(model, step, rows, size, mesh)
        if writes:
            write_part(parts / name, table)
        progress.add(rows.size)
    return _merge([parts / name for name in names], out, source, about) if writes else {}


def _about(model: Backbone, source: Source, choice: Choice) -> dict[str, Any]:
    """What features are a function of: parts of one table agree in all of it."""
    weights = tree_hash(jax.device_get(model.params))
    images = {"source": source.name, "split": source.split, "fingerprint": source.fingerprint}
    return {"workdir": model.name, "weights": weights, **images, **choice._asdict(), "rows": ROWS}


def _parts_of(parts: epath.Path, about: dict[str, Any]) -> list[str]:
    """Names of the parts that are there."""
    if not (parts / COMMAND).exists():
        return []
    theirs = json.loads((parts / COMMAND).read_text())
    other = [
        f"{key}: {theirs.get(key)!r} there, {value!r} here" for key, value in about.items() if theirs.get(key) != value
    ]
    if other:
        raise InputError(
            f"{parts} holds parts of another command ({'; '.join(other)}); remove it or choose another --out"
        )
    return sorted(path.name for path in parts.iterdir() if path.suffix == ".npz")


def _rows(source: Source, name: str) -> Source:
    """The images of a part."""
    start = int(name.removesuffix(".npz")) * ROWS
    return source.take(np.arange(start, min(start + ROWS, source.size)))


def _table(model: Backbone, step: Callable, source: Source, size: int, mesh: jax.sharding.Mesh) -> Table:
    """The features of the readable images of a source."""
    batches = device_batches(source, transform(model.config, model.data), size, mesh)
    pairs = [mesh_lib.gather((step(model.params, batch["image"]), batch["mask"])) for batch in batches()]
    feature, mask = (np.concatenate(column)[: source.size] for column in zip(*pairs, strict=True))
    readable = mask > 0
    labels = {} if source.labels is None else {"label": source.labels[readable]}
    return {"name": np.array(source.ids())[readable], **labels, "feature": feature[readable]}


def _merge(paths: list[epath.Path], out: epath.Path, source: Source, about: dict[str, Any]) -> dict[str, Any]:
    shapes = [read_part(path)["feature"].shape for path in paths]
    images = sum(rows for rows, _ in shapes)
    if not images:
        raise Stopped(f"no image of {source.name} could be read")
    MERGE[out.suffix](paths, out, source.classes, about)
    out.with_name(out.name + ".parts").rmtree()
    return {"images": images, "unreadable": source.size - images, "width": shapes[0][1]}


class Progress:
    """Lines with the time left; images of an earlier start do not count for the rate."""

    def __init__(self, images: int, done: int):
        self._images, self._done, self._fresh, self._start = images, done, 0, time.monotonic()
        if done:
            log.info("going on after %d of %d images", done, images)

    def add(self, images: int) -> None:
        """So many images more are done."""
        self._fresh += images
        self._done += images
        rate = self._fresh / (time.monotonic() - self._start)
        left = clock((self._images - self._done) / rate)
        log.info("%d of %d images  images/s %.0f  left %s", self._done, self._images, rate, left)
