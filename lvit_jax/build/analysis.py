"""Any workdirs -> similarity of their layers, reach and breadth of their heads, attention maps of chosen patches."""

import logging
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from lvit_jax.build.backbone import UNTRAINED, Backbone, load_backbone, make_features, transform
from lvit_jax.build.data import device_batches
from lvit_jax.build.parts import image_shape
from lvit_jax.data.order import permutation
from lvit_jax.data.source import Source
from lvit_jax.errors import InputError
from lvit_jax.evals.attention import head_figures, query_maps
from lvit_jax.evals.cka import LEAST, cka, grams, hsic
from lvit_jax.models import ENCODERS
from lvit_jax.models.features import layers
from lvit_jax.training import mesh as mesh_lib

SEED = 0  # of the choice of images, which is the same for all models: files lie class by class, batches must not
WHOLE = ("vit", "vit_rpe")  # kinds whose attention is over the whole image, of which maps can be drawn
log = logging.getLogger(__name__)


class Maps(NamedTuple):
    """Of one model: where chosen patches of some images look."""

    images: np.ndarray  # uint8 [B,H,W,C], as the model saw them
    queries: list[tuple[int, int]]  # (row, column)
    weights: np.ndarray  # [B,Q,heads,rows,columns]
    block: int  # counted from 1
    patch: int  # its side in pixels


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
    [model.layers for model in models]  # a RegNet, which has none to compare, says so here
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
        return grams(layers(found), batch["mask"]), batch["mask"], sums

    products, masks, total, start = [], [], None, time.monotonic()
    count, batches = -(-source.size // size), device_batches(source, transform(model.config, model.data), size, mesh)
    for done, batch in enumerate(batches(), start=1):
        gram, mask, sums = mesh_lib.gather(step(model.params, batch))
        products.append(gram)
        masks.append(mask)
        total = sums if total is None else jax.tree.map(np.add, total, sums)
        left = (time.monotonic() - start) / done * (count - done)
        log.info("%s: batch %d of %d, %.0f s left", model.name, done, count, left)
    whole, seen = source.size // size, max(1.0, float(np.sum(masks)))
    return Measured(np.stack(products[:whole]), np.stack(masks[:whole]), jax.tree.map(lambda x: x / seen, total))


def analyse(models: dict[str, Backbone], source: Source, size: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The contents of analysis.json and analysis.npz for models by label; the first is compared with each.

    Args: source: what `choose_images` chose; size: images of a mini-batch.
    """
    with jax.default_matmul_precision("highest"):
        measured = {label: measure(model, source, size) for label, model in models.items()}
    mask = np.min([part.mask for part in measured.values()], axis=0)
    every = cka(hsic(np.concatenate([part.grams for part in measured.values()], axis=1), mask))
    ends = np.cumsum([0, *(model.layers for model in models.values())])
    rows = {label: slice(*ends[i : i + 2]) for i, label in enumerate(models)}
    first = next(iter(models))
    matrices = {label: every[rows[label], rows[first]] for label in models}
    figures = {
        "source": source.name,
        "split": source.split,
        "images": source.size,
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
        arrays |= {
            f"{what}/{label}": _padded([block[what] for block in part.heads]) for what in ("distance", "entropy")
        }
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


def check_queries(
    models: dict[str, Backbone], queries: list[tuple[int, int]] | None, block: int | None
) -> dict[str, tuple[list[tuple[int, int]], int]]:
    """{label: (queries, block)} of the models whose maps are drawn; the middle patch and the last block where None.

    Raises:
      InputError: a block or a patch that a model does not have; a wish of either where no model has maps.
    """
    found, without = {}, []
    for label, model in models.items():
        name, depth = model.config["model"]["name"], model.encoder.depth
        if ENCODERS[name][0] not in WHOLE:
            without.append(f"{label} is a {name}, and attention maps are of {' and '.join(WHOLE)}, without windows")
            continue
        if block is not None and not 1 <= block <= depth:
            raise InputError(f"--block={block}, but {label} has blocks 1 to {depth}")
        height, width, _ = image_shape(model.config["model"])
        rows, columns = model.encoder.position_grid(height, width)
        for row, column in queries or ():
            if not (0 <= row < rows and 0 <= column < columns):
                raise InputError(f"--queries={row},{column}: {label} has patches 0,0 to {rows - 1},{columns - 1}")
        found[label] = queries or [(rows // 2, columns // 2)], block or depth
    if without and not found and (queries or block is not None):
        raise InputError(without[0])
    for line in without:
        log.info(line)
    return found


def draw_maps(model: Backbone, source: Source, count: int, queries: list[tuple[int, int]], block: int) -> Maps:
    """Maps of the first `count` images of a source."""
    source = source.take(np.arange(min(count, source.size)))
    mesh, features = mesh_lib.make_mesh(), make_features(model)
    size = -(-source.size // mesh.size) * mesh.size

    @jax.jit
    def maps(params, images):
        return query_maps(features(params, images), block - 1, queries)

    batch = next(device_batches(source, transform(model.config, model.data), size, mesh)())
    with jax.default_matmul_precision("highest"):
        weights, images, mask = mesh_lib.gather((maps(model.params, batch["image"]), batch["image"], batch["mask"]))
    pixels = images * np.asarray(model.data["std"]) + np.asarray(model.data["mean"])
    pixels = np.rint(255 * pixels).clip(0, 255).astype(np.uint8)
    return Maps(pixels[mask > 0], queries, weights[mask > 0], block, model.encoder.patch_size)
