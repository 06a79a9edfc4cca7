"""Any workdirs -> similarity of their layers, reach and breadth of their heads."""

import logging
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from lvit_jax.build.backbone import Backbone, load_backbone, make_features, transform
from lvit_jax.build.data import device_batches
from lvit_jax.data.order import permutation
from lvit_jax.data.source import Source
from lvit_jax.errors import InputError, Stopped
from lvit_jax.evals.attention import head_figures
from lvit_jax.evals.cka import LEAST, cka, grams, hsic
from lvit_jax.models.features import layers
from lvit_jax.training import mesh as mesh_lib
from lvit_jax.training.record import UNTRAINED

SEED = 0  # of the choice of images, which is the same for all models: files lie class by class, batches must not
log = logging.getLogger(__name__)


def load_models(workdirs: Sequence[str], ema: bool = True) -> dict[str, Backbone]:
    """{label: Backbone} in float32: labels are the last parts of the paths, or whole paths where these are not unique.

    Raises:
      InputError: one named twice, or as `load_backbone`.
    """
    twice = next((name for name in workdirs if workdirs.count(name) > 1), None)
    if twice:
        raise InputError(f"{twice} is named twice; every model is compared with itself anyway")
    short = [_short(name) for name in workdirs]
    labels = short if len(set(short)) == len(short) else workdirs
    models = [load_backbone(workdir, ema) for workdir in workdirs]
    models = [model._replace(encoder=model.encoder.clone(dtype="float32")) for model in models]
    return dict(zip(labels, models, strict=True))


def _short(name: str) -> str:
    fresh = UNTRAINED if name.startswith(UNTRAINED) else ""
    return fresh + name.removeprefix(UNTRAINED).rstrip("/").rsplit("/")[-1]


def choose_images(source: Source, count: int, size: int) -> Source:
    """`count` images at random (all, where there are fewer), in the order of the draw.

    Raises:
      InputError: mini-batches of fewer than `LEAST` images, or too few images for one mini-batch.
    """
    if size < LEAST:
        raise InputError(f"--batch_size={size}, but CKA needs mini-batches of at least {LEAST} images")
    found = min(count, source.size)
    if found < size:
        raise InputError(
            f"{found} image(s) ({source.name}, {source.split} has {source.size}) make no mini-batch of {size} for CKA; "
            f"nearest: --batch_size={max(found, LEAST)}"
        )
    return source.take(permutation(SEED, 0, source.size)[:found])


class Measured(NamedTuple):
    """What a pass over the images says of one model."""

    images: int  # that could be read
    grams: np.ndarray  # float32 [T,L,n,n]
    mask: np.ndarray  # [T,n]
    heads: list[dict[str, np.ndarray]]  # {"distance", "entropy"} of each block, [H]


def measure(model: Backbone, source: Source, size: int) -> Measured:
    """One pass in batches of `size`: the last partial one counts for the heads, and not for CKA.

    Raises:
      InputError: `size` does not divide over the devices.
    """
    mesh, features = mesh_lib.make_mesh(), make_features(model)
    mesh_lib.check_batch(size, mesh)

    @jax.jit
    def step(params, batch):
        found = features(params, batch["image"])
        rows = head_figures(model.encoder, found)
        sums = jax.tree.map(lambda x: batch["mask"] @ x, rows)
        patches = [tokens[:, found.prefix :] for tokens in layers(found)]  # CKA leaves CLS out
        return grams(patches, batch["mask"]), batch["mask"], sums

    products, masks, total, start = [], [], None, time.monotonic()
    count, batches = -(-source.size // size), device_batches(source, transform(model.config, model.data), size, mesh)
    for done, batch in enumerate(batches(), start=1):
        gram, mask, sums = mesh_lib.gather(step(model.params, batch))
        products.append(gram)
        masks.append(mask)
        total = sums if total is None else jax.tree.map(np.add, total, sums)
        left = (time.monotonic() - start) / done * (count - done)
        log.info("%s: batch %d of %d, %.0f s left", model.name, done, count, left)
    whole, seen = source.size // size, int(np.sum(masks))
    if not seen:
        raise Stopped(f"no image of {source.name} could be read")
    return Measured(seen, np.stack(products[:whole]), np.stack(masks[:whole]), jax.tree.map(lambda x: x / seen, total))


def analyse(models: dict[str, Backbone], source: Source, size: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The contents of analysis.json and analysis.npz for models by label; the first is compared with each.

    Args: source: what `choose_images` chose; size: images of a mini-batch.
    """
    first = next(iter(models))
    with jax.default_matmul_precision("highest"):
        measured = {label: measure(model, source, size) for label, model in models.items()}
    mask = np.min([part.mask for part in measured.values()], axis=0)
    every = cka(hsic(np.concatenate([part.grams for part in measured.values()], axis=1), mask))
    ends = np.cumsum([0, *(model.layers for model in models.values())])
    rows = {label: slice(*ends[i : i + 2]) for i, label in enumerate(models)}
    matrices = {label: every[rows[label], rows[first]] for label in models}
    figures = {
        "source": source.name,
        "split": source.split,
        "images": measured[first].images,
        "seed": SEED,
        "batch_size": size,
        "cka_images": int(mask.sum()),  # of whole mini-batches
        "models": [_described(label, models[label], part.heads) for label, part in measured.items()],
        "cka": [{"x": first, "y": label, "rows_are_layers_of_y": _plain(m)} for label, m in matrices.items()],
        "units": {
            "distance": "pixels; MAE-Lite's figures count 14 for a patch of 16, so that theirs are 14/16 of these",
            "entropy": "nats",
            "layers": "0: what the first block sees, 1: what the second sees, ...; the last: final tokens; all normed",
        },
    }
    arrays = {f"cka/{label}": matrix for label, matrix in matrices.items()}
    for label, part in measured.items():
        for what in ("distance", "entropy"):
            arrays[f"{what}/{label}"] = _padded([block[what] for block in part.heads])
    return figures, arrays


def _described(label: str, model: Backbone, heads: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    named = {"label": label, "workdir": model.name, "model": model.config["model"]["name"], "layers": model.layers}
    return named | {what: [_plain(block[what]) for block in heads] for what in ("distance", "entropy")}


def _plain(values: np.ndarray) -> list:
    """For JSON, which has no NaN."""
    return np.where(np.isnan(values), None, values.astype(object)).tolist()


def _padded(rows: list[np.ndarray]) -> np.ndarray:
    """[blocks, most heads], NaN where a block has fewer heads."""
    most = max(map(len, rows))
    return np.stack([np.pad(row, (0, most - len(row)), constant_values=np.nan) for row in rows])
