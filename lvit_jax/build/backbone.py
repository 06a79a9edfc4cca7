"""The workdir of any run or import -> its encoder and images, for what reads features: probes, embeddings, analyses."""

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from etils import epath

from lvit_jax.build.parts import Config, encoder, image_shape
from lvit_jax.convert.record import decode_from
from lvit_jax.data.recipes import RECIPES, Example
from lvit_jax.data.source import Source
from lvit_jax.data.sources import open_splits
from lvit_jax.errors import InputError
from lvit_jax.models import ENCODERS
from lvit_jax.models.features import Features
from lvit_jax.models.initial import from_scratch
from lvit_jax.models.probes import whole
from lvit_jax.training import mesh as mesh_lib
from lvit_jax.training.checkpoint import load_params
from lvit_jax.training.record import UNTRAINED, read_record
from lvit_jax.types import Tree

# What the config of an import lacks and a run's has: its weights came without data.
IMPORT = {
    "data": {"source": None, "data_dir": None, "train_split": "train", "eval_crop": 0.875, "resample": "exact"},
    "eval": {"batch_size": 64},
}
log = logging.getLogger(__name__)


class Backbone(NamedTuple):
    """The encoder of a workdir, whatever trained it."""

    name: str  # the workdir as it was given
    config: Config
    data: Config  # of the record: classes, mean, std
    encoder: nn.Module
    params: Tree  # {"encoder"}, and {"norm"} of a classifier, which norms in its head; whole on every device

    @property
    def layers(self) -> int:
        """The number of layers as `features.layers` counts them: 0 stands before the first block."""
        return self.encoder.depth + 1


def load_backbone(workdir: epath.PathLike, ema: bool = True) -> Backbone:
    """The encoder of a run or an import; of 'untrained:WORKDIR' the same architecture with fresh weights (seed 0).

    Args:
      ema: take the averaged weights where the run keeps them.

    Raises:
      InputError: no such workdir, one without a readable checkpoint, or a RegNet.
    """
    place = str(workdir).removeprefix(UNTRAINED)
    record = read_record(place)
    config = IMPORT | record["config"]
    if ENCODERS[config["model"]["name"]][0] == "regnet":
        raise InputError(
            f"{place} holds a RegNet: it teaches classifiers, and has no blocks whose features can be read"
        )
    params = load_params(place, ema)
    if "encoder" not in params:
        raise InputError(
            f"{place} holds a {config['objective']['name']!r} and no encoder; name the folder of its encoder"
        )
    params = _encoder_params(params)
    module = encoder({**config["model"], "remat": False}).clone(final_norm="norm" in params["encoder"])
    if "dist_token" in params["encoder"]:
        module = module.clone(distill_token=True)
    if str(workdir).startswith(UNTRAINED):
        params = _fresh(module, config["model"])
    else:
        warn_of_inner_norm(place, record)
    params = jax.device_put(params, mesh_lib.replicated(mesh_lib.make_mesh()))  # once, not with every batch
    return Backbone(str(workdir), config, record["data"], module, params)


def warn_of_inner_norm(workdir: str, record: Config) -> None:
    """Says where the final norm was trained behind another block than the last, as in D²-MAE (recipes 12.1)."""
    inner = decode_from(record)
    if inner is not None:
        message = "%s: the final norm of a D²-MAE belongs to its inner block %d; what reads the last one sees it there"
        log.warning(message, workdir, inner)


def _encoder_params(params: Tree) -> Tree:
    """{"encoder"} and the final norm, which is the head's where the encoder has none."""
    head_norm = {} if "norm" in params["encoder"] else {"norm": params.get("head", {}).get("norm")}
    return {"encoder": params["encoder"], **{key: leaf for key, leaf in head_norm.items() if leaf is not None}}


def _fresh(module: nn.Module, model: Config) -> Tree:
    rng = jax.random.key(0)
    params = module.init(rng, jnp.zeros((1, *image_shape(model))))["params"]
    return {"encoder": from_scratch(module, rng, params)}


def make_features(backbone: Backbone) -> Callable[[Tree, jax.Array], Features]:
    """(params, images [B,H,W,C]) -> Features of whole images whose tokens are normed; pure."""

    def features(params: Tree, images: jax.Array) -> Features:
        return whole(backbone.encoder, params, images)

    return features


def transform(config: Config, data: Config) -> Example:
    """The evaluation transform that a model was trained to be judged by.

    Args: config, data: of its record.
    """
    return RECIPES["eval"](**transform_fields(config, data))


def transform_fields(config: Config, data: Config) -> dict[str, Any]:
    """The fields of that transform."""
    height, width, channels = image_shape(config["model"])
    return {
        "image_size": (height, width),
        "channels": channels,
        "mean": tuple(data["mean"]),
        "std": tuple(data["std"]),
        "eval_crop": data["crop"] if "crop" in data else config["data"]["eval_crop"],  # of an import, or of a run
        "resample": config["data"]["resample"],
    }


def labelled_splits(
    backbone: Backbone,
    source: str | None,
    train_split: str | None = None,
    val_split: str | None = None,
    data_dir: str | None = None,
) -> tuple[Source, Source]:
    """Training and validation images with labels: of the run's own source, or of another one with its own classes.

    Where a source has no validation split, the tenth that a run would hold out is taken from the training split.

    Args: source, train_split, val_split, data_dir: None for the run's own.

    Raises:
      InputError: an import without a source, images without labels, a source without validation images.
    """
    own = backbone.config["data"]
    if source is None and own["source"] is None:
        raise InputError(f"{backbone.name} is an import without data of its own; name some with --source=")
    theirs = source in (None, own["source"])
    fields = {key: own[key] for key in ("val_split", "holdout", "split_seed") if theirs and key in own}
    fields |= {"val_split": val_split} if val_split else {}
    fields |= {"data_dir": data_dir or (own["data_dir"] if theirs else None)}
    split = train_split or (own["train_split"] if theirs else "train")
    train, val, _ = open_splits(source or own["source"], split, **fields)
    if val is None:
        raise InputError(f"{train.name!r} has no validation images; name a split of it with --val_split=")
    return train, val
