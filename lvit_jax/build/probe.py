"""A backbone and labelled images -> accuracy of each of its layers, by k nearest neighbours and linear probes."""

import functools
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lvit_jax.build.backbone import Backbone, make_features, transform, transform_fields
from lvit_jax.build.data import device_batches
from lvit_jax.build.neighbours import collect, compare
from lvit_jax.data.source import Source
from lvit_jax.errors import InputError, Stopped
from lvit_jax.evals.knn import check_ks, make_knn
from lvit_jax.models import ENCODERS, KINDS
from lvit_jax.models.probes import choose_layers, choose_pools, pooled, spot
from lvit_jax.training import mesh as mesh_lib
from lvit_jax.training.loop import Run
from lvit_jax.training.report import clock, say
from lvit_jax.types import TrainState


def choose_spots(backbone: Backbone, layers: Sequence[int], pools: Sequence[str]) -> tuple[tuple, tuple]:
    """(layers, pools) to probe: all there are where none are named; raises as `choose_layers`, `choose_pools`."""
    cls = "cls" in KINDS[ENCODERS[backbone.config["model"]["name"]][0]].can
    return choose_layers(layers, backbone.layers), choose_pools(pools, cls)


def check_bank(backbone: Backbone, ks: Sequence[int], train: Source, val: Source, batch_size: int | None) -> None:
    """Raises InputError for images without labels, a k larger than the bank, a batch that the devices do not divide."""
    for source in (train, val):
        if not source.classes:
            raise InputError(f"{source.name!r} has no labels, and neighbours vote with theirs")
    check_ks(ks, train.size)
    mesh_lib.check_batch(_size(backbone, batch_size), mesh_lib.make_mesh())


def _size(backbone: Backbone, batch_size: int | None) -> int:
    return backbone.config["eval"]["batch_size"] if batch_size is None else batch_size


def knn_rows(
    backbone: Backbone,
    train: Source,
    val: Source,
    layers: Sequence[int],
    pools: Sequence[str],
    ks: Sequence[int],
    batch_size: int | None = None,
) -> list[dict[str, Any]]:
    """[{'layer', 'pool', 'knn': {k: {'top1', 'top5' in percent}}}]: images of `val` among the neighbours of `train`.

    The encoder sees every image once. On the host, all layers of both stay in memory: 4 bytes x images x layers x pools
    x width, 25.6 GB for ImageNet and 13 layers of width 192 in both pools; fewer layers take less.

    Args: layers, pools: of `choose_spots`. batch_size: None for the run's eval.batch_size.

    Raises:
      InputError: images without labels, a k larger than the bank, a batch that does not divide over the devices.
      Stopped: features that are not finite.
    """
    check_bank(backbone, ks, train, val, batch_size)
    mesh_lib.check_alike({"the images": [train.fingerprint, val.fingerprint]})
    bank = features_of(backbone, train, layers, pools, batch_size)
    queries = features_of(backbone, val, layers, pools, batch_size)
    knn, mesh, rows = make_knn(ks, len(train.classes)), mesh_lib.make_mesh(), []
    for layer in watched(layers, len(layers), "layers compared"):
        for how in pools:
            name = spot(layer, how)
            given = ((images[name], images["label"]) for images in (bank, queries))
            rows.append({"layer": layer, "pool": how, "knn": compare(knn, mesh, *given)})
    return rows


def features_of(
    backbone: Backbone, source: Source, layers: Sequence[int], pools: Sequence[str], batch_size: int | None = None
) -> dict[str, np.ndarray]:
    """{spot: float32 [N,D], "label": int32 [N]} of all readable images of a source, whole on every process."""
    features, mesh = make_features(backbone), mesh_lib.make_mesh()
    size = _size(backbone, batch_size)
    mesh_lib.check_batch(size, mesh)

    @jax.jit
    def see(params, batch):
        return pooled(features(params, batch["image"]), layers, pools) | {"label": batch["label"]}

    batches = device_batches(source, transform(backbone.config, backbone.data), size, mesh)
    seen = watched(batches(), -(-source.size // size), f"batches of {source.split} seen")
    found = collect(functools.partial(see, backbone.params), seen)
    for name, rows in found.items():
        if not np.isfinite(rows).all():
            raise Stopped(f"{backbone.name}: features of {name} are not finite")
    return found


def linear_config(
    config: ConfigDict, backbone: Backbone, layers: Sequence[int], pools: Sequence[str], places: dict[str, str | None]
) -> ConfigDict:
    """A config of linear probes for a backbone and its layers: its model and pixels, the images of `labelled_splits`.

    Args: places: source, train_split, val_split, data_dir; None for the run's own.
    """
    places = {key: value for key, value in places.items() if value is not None}
    own = backbone.config["data"]
    if places.get("source", own["source"]) == own["source"]:
        fields = ("source", "train_split", "val_split", "data_dir", "holdout", "split_seed")
        places = {key: own[key] for key in fields if key in own} | places
    with config.unlocked(), config.ignore_type():
        config.model = ConfigDict(backbone.config["model"])
        config.objective.update({"layers": tuple(layers), "pools": tuple(pools)})
        config.data.update(places)
        config.data.statistics = tuple(backbone.data["mean"]), tuple(backbone.data["std"])
        fields = transform_fields(backbone.config, backbone.data)
        config.data.update({key: fields[key] for key in ("eval_crop", "resample")})
        config.init.encoder = backbone.name
        config.eval.batch_size = backbone.config["eval"]["batch_size"]
    return config


def linear_figures(run: Run, state: TrainState, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with 'linear': {'top1', 'top5' in percent, 'loss' in nats} of the probes of a finished run."""
    found = run.evals[0].run(state)
    names = [spot(row["layer"], row["pool"]) for row in rows]
    linear = [{what: found[f"{what}_{name}"] for what in ("top1", "top5", "loss")} for name in names]
    return [{**row, "linear": figures} for row, figures in zip(rows, linear, strict=True)]


def watched(items: Iterable, count: int, what: str, every: float = 5.0) -> Iterator:
    """The items; every so many seconds, a line on stderr says how many are done and how long the rest will take."""
    start = said = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - said > every:
            said = now
            say(f"{done}/{count} {what}  left {clock((now - start) / done * (count - done))}")
        yield item
