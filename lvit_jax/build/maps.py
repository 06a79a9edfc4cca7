"""Any workdirs -> attention maps of chosen patches, in pixels of the images that they belong to."""

import logging
from typing import NamedTuple

import jax
import numpy as np

from lvit_jax.build.backbone import Backbone, make_features, transform
from lvit_jax.build.data import device_batches
from lvit_jax.build.parts import image_shape
from lvit_jax.data.source import Source
from lvit_jax.errors import InputError, Stopped
from lvit_jax.evals.attention import query_maps
from lvit_jax.models import ENCODERS
from lvit_jax.training import mesh as mesh_lib

WHOLE = ("vit", "vit_rpe")  # kinds whose attention is over the whole image, of which maps can be drawn
log = logging.getLogger(__name__)


class Maps(NamedTuple):
    """Of one model: where chosen patches of some images look."""

    images: np.ndarray  # uint8 [B,H,W,C], as the model saw them
    queries: list[tuple[int, int]]  # (row, column)
    weights: np.ndarray  # [B,Q,heads,rows,columns]
    block: int  # counted from 1
    patch: int  # its side in pixels


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
    if not mask.any():
        raise Stopped(f"none of the {source.size} image(s) of {source.name} to draw on could be read")
    pixels = images * np.asarray(model.data["std"]) + np.asarray(model.data["mean"])
    pixels = np.rint(255 * pixels).clip(0, 255).astype(np.uint8)
    return Maps(pixels[mask > 0], queries, weights[mask > 0], block, model.encoder.patch_size)
