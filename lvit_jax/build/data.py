"""The `data` and `eval` sections of a config -> training batches, and what is measured during the run."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from lvit_jax.build.neighbours import collect, compare
from lvit_jax.build.parts import Config, call, image_shape
from lvit_jax.data import pipeline
from lvit_jax.data.recipes import Example
from lvit_jax.data.source import Source
from lvit_jax.data.sources import Data, open_data
from lvit_jax.evals.classify import make_classify
from lvit_jax.evals.knn import make_knn
from lvit_jax.evals.probes import make_probes
from lvit_jax.evals.reconstruct import make_reconstruct
from lvit_jax.evals.spread import make_spread
from lvit_jax.objectives import NEEDS_ENCODER
from lvit_jax.training import mesh as mesh_lib
from lvit_jax.training.optim import averaged
from lvit_jax.types import Batch, Eval, Objective, TrainState, Tree

# A second pass, of the encoder alone and over whole images: a thousand say enough of a standard deviation.
SPREAD_IMAGES = 1024
NEIGHBOURS = 20  # DINO's best number of neighbours
# Features have collapsed below these. Untrained encoders of the demos have a standard deviation of 0.036 (Swin) to 0.24
# (Hiera) and an effective rank of 5.6 (SimMIM's ViT) to 50; below a rank of 2 images differ in a single direction.
COLLAPSED_STD, COLLAPSED_RANK = 0.01, 2.0
FEW = 32  # images, below which a low rank says nothing

log = logging.getLogger(__name__)


def load_data(config: Config) -> Data:
    """The config's `data` section -> Data; labels are needed where the objective counts classes."""
    height, width, channels = image_shape(config["model"])
    labels = "classes" in config["objective"]
    return call(open_data, "data", config["data"], image_size=(height, width), channels=channels, labels=labels)


def make_batches(config: Config, data: Data) -> Callable:
    """batches(step) -> this process's rows of the training batches from that step on."""
    return pipeline.train_batches(
        data.train,
        data.augment,
        batch_size=config["train"]["batch_size"],
        seed=config["seed"],
        max_broken=data.max_broken,
        threads=data.threads,
        **mesh_lib.this_process(),
    )


def make_evals(config: Config, objective: Objective, mesh: jax.sharding.Mesh, data: Data, steps: int) -> tuple:
    """What is measured in a run: accuracy; or else the spread of features and their neighbours, and reconstructions.

    Neighbours need labels, which play no part in the training; reconstructions an objective that makes some.
    """
    size = config["eval"]["batch_size"]
    every = max(1, round(config["eval"]["every_epochs"] * data.train.size / config["train"]["batch_size"]))
    labels = "classes" in config["objective"]
    if data.val is None and labels:
        return ()
    # Without validation images, a look at training images still shows whether reconstructions improve.
    source = data.val or data.train.take(_evenly(data.train.size, size))
    batches = device_batches(source, data.transform, size, mesh, data.threads)
    if config["objective"]["name"] in NEEDS_ENCODER:
        measures = [(make_probes(objective), batches)]
    elif labels:
        measures = [(make_classify(objective), batches)]
    elif "norm_pix" not in config["objective"]:  # nothing is reconstructed
        measures = [(make_spread(objective, mesh_lib.gather), batches)]
    else:
        norm_pix = config["objective"]["norm_pix"]
        measures = [(make_reconstruct(objective, data.mean, data.std, norm_pix, mesh_lib.gather), batches)]
        some = source.take(_evenly(source.size, SPREAD_IMAGES))
        some = device_batches(some, data.transform, size, mesh, data.threads)
        measures.append((make_spread(objective, mesh_lib.gather), some))
    neighbours = None if labels else make_neighbours(config, objective, mesh, data)

    def run(state: TrainState) -> dict[str, Any]:
        average = averaged(state.opt_state)
        params = state.params if average is None else average
        figures = [measure(params, state, images()) for measure, images in measures]
        figures.append(neighbours(params, state) if neighbours else {})
        found = {name: value for part in figures for name, value in part.items()}
        if source.size >= FEW:
            _warn_of_collapse(int(state.step), found)
        return found

    return (Eval("val" if data.val else "train_images", min(every, steps), run),)


def make_neighbours(config: Config, objective: Objective, mesh: jax.sharding.Mesh, data: Data) -> Callable | None:
    """(params, state) -> {'knn_top1' in percent}: 20-NN accuracy of predict's "features", as whole images have them.

    At most `eval.knn_images` training images, evenly spaced, are the bank, and as many validation images are judged.
    None where that is 0, where there are no labels, or no validation images.
    """
    most, classes = config["eval"]["knn_images"], data.train.classes or ()
    if not most or data.val is None or len(classes) < 2:
        return None
    sources = [source.take(_evenly(source.size, most)) for source in (data.train, data.val)]
    size = config["eval"]["batch_size"]
    passes = [device_batches(source, data.transform, size, mesh, data.threads) for source in sources]
    knn = make_knn((NEIGHBOURS,), len(classes))

    @jax.jit
    def see(params, state, batch):
        return {"feature": objective.predict(params, state, batch)["features"], "label": batch["label"]}

    def neighbours(params: Tree, state: TrainState) -> dict[str, float]:
        bank, queries = (collect(lambda batch: see(params, state, batch), batches()) for batches in passes)
        if len(bank["label"]) < NEIGHBOURS:
            return {}
        given = ((images["feature"], images["label"]) for images in (bank, queries))
        return {"knn_top1": compare(knn, mesh, *given)[NEIGHBOURS]["top1"]}

    return neighbours


def _evenly(size: int, count: int) -> np.ndarray:
    """At most `count` of `size` indices, evenly spaced: of folders, which are ordered by class, from every class."""
    return np.linspace(0, size - 1, min(size, count)).round().astype(np.int64)


def _warn_of_collapse(step: int, figures: dict[str, Any]) -> None:
    if "feature_std" not in figures:
        return
    std, rank = figures["feature_std"], figures["effective_rank"]
    if std < COLLAPSED_STD or rank < COLLAPSED_RANK:
        message = "step %d: WARNING: features have collapsed: standard deviation %.2g (of 1), effective rank %.3g"
        log.warning(message, step, std, rank)


def device_batches(
    source: Source, transform: Example, size: int, mesh: jax.sharding.Mesh, threads: int | None = None
) -> Callable[[], Iterator[Batch]]:
    """A function that starts a pass over a source, its padded and masked batches on the mesh."""
    host = pipeline.eval_batches(source, transform, batch_size=size, threads=threads, **mesh_lib.this_process())

    def batches() -> Iterator[Batch]:
        for batch in host():
            yield mesh_lib.put(mesh, {key: rows for key, rows in batch.items() if key not in ("index", "broken")})

    return batches
