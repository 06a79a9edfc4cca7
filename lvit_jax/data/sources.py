"""Sources by name, and the `data` section of a config: `open_data(**config.data, image_size=..., ...)`.

data.source        "digits", "fgvc_aircraft", a name of tensorflow_datasets, or "folder:PATH" (class folders,
                   split/class folders, or any tree of images where labels are not needed)
data.train_split   "train"; slices and sums of tfds work: "train[:10%]", "train+validation"
data.val_split     "validation" ("val" is the same); where the data have none, `holdout` of train is split off
data.data_dir      None: ~/tensorflow_datasets
data.holdout       0.1: share of train kept for validation, stratified, never trained on; 0 for no validation
data.split_seed    0: of the hold-out; independent of the run's seed, so that all runs hold out the same images
data.limit         None, or train on so many examples only (stratified)
data.labels_per_class  None, or train on so many examples of every class only, listed in config.json ("labelled")
data.limit_seed    0: of these choices
data.tune          None, or a share of those training examples that takes the place of the validation split, stratified
                   by split_seed and left out of training: settings are chosen on it (`lvit train --grid`)
data.statistics    "imagenet" | "cifar10" | "digits" | "half", or (mean, std), each a tuple per channel
data.recipe        "mae" | "finetune" | "tinymim" | "moco" (these two give two views): training examples (`recipes.py`)
data.eval_crop     0.875: share of the resized image that the centre crop of evaluation takes; 1.0 for small images
data.resample      "exact" (as PIL) | "fast"
data.max_broken    0.1: share of broken images above which training stops
data.threads       None: one per core
and the recipe's own: crop_scale, crop_ratio, interpolation, flip, pad; finetune also: randaugment, erase;
tinymim also: jitter; moco also: jitter, jitter_p, blur_p, blur_sigma, grey_p, solarise_p, order
"""

import inspect
from typing import Any, NamedTuple

import numpy as np

from lvit_jax.data.folders import ALIASES, folder_splits, open_folder
from lvit_jax.data.image import STATISTICS
from lvit_jax.data.order import balanced, stratified
from lvit_jax.data.recipes import RECIPES, Example
from lvit_jax.data.records import open_tfds, split_names, split_parts
from lvit_jax.data.source import Source
from lvit_jax.errors import InputError, nearest, unknown

TUNE = "tune"  # what the images that `data.tune` splits off are called


class Data(NamedTuple):
    """Everything a run needs of its data: what to read, how to make examples of it, what to write into config.json."""

    train: Source
    val: Source | None
    augment: Example
    transform: Example
    mean: tuple[float, ...]
    std: tuple[float, ...]
    max_broken: float
    threads: int | None
    held_out: list[str]  # names of the images split off for validation; empty where the data have a validation split
    labelled: list[str]  # names of the training images that `labels_per_class` chose; empty without it
    record: dict[str, Any]  # {"classes", "mean", "std", "size", "val_size", "fingerprint"}, for config.json


def open_data(
    *,
    source: str,
    image_size: int | tuple[int, int],
    channels: int = 3,
    labels: bool = False,
    train_split: str = "train",
    val_split: str | None = "validation",
    data_dir: str | None = None,
    holdout: float = 0.1,
    split_seed: int = 0,
    limit: int | None = None,
    labels_per_class: int | None = None,
    limit_seed: int = 0,
    tune: float | None = None,
    statistics: str | tuple = "imagenet",
    recipe: str = "mae",
    eval_crop: float = 0.875,
    resample: str = "exact",
    max_broken: float = 0.1,
    threads: int | None = None,
    **augment: Any,
) -> Data:
    """Opens the `data` section of a config: see the docstring of this module for its fields.

    `image_size` and `channels` are the model's; `labels`: whether the objective needs them.

    Raises: InputError, for everything that does not fit, in one line, before anything is decoded.
    """
    places = {"val_split": val_split, "data_dir": data_dir, "holdout": holdout, "split_seed": split_seed}
    train, val, held_out = open_splits(source, train_split, labels=labels, **places)
    train = _chosen(train, limit, labels_per_class, limit_seed)
    labelled = [] if labels_per_class is None else train.ids()
    if tune is not None:
        train, val, held_out = _tuning(train, tune, split_seed)
    mean, std = as_statistics(statistics, channels)
    common = {"image_size": image_size, "channels": channels, "mean": mean, "std": std, "resample": resample}
    return Data(
        train=train,
        val=val,
        augment=make_recipe(recipe, augment | common),
        transform=RECIPES["eval"](**common, eval_crop=eval_crop),
        mean=mean,
        std=std,
        max_broken=max_broken,
        threads=threads,
        held_out=held_out,
        labelled=labelled,
        record=_record(train, val, mean, std),
    )


def _record(train: Source, val: Source | None, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    return {
        "classes": list(train.classes) if train.classes else None,
        "mean": list(mean),
        "std": list(std),
        "size": train.size,
        "val_size": val.size if val else 0,
        "fingerprint": train.fingerprint,
    }


def open_source(
    source: str, split: str, *, data_dir: str | None = None, classes: tuple[str, ...] | None = None, labels: bool = True
) -> Source:
    """One split as it lies there, without hold-out. `classes`: number the labels by these names (a model's)."""
    if source.startswith("folder:"):
        return open_folder(source.removeprefix("folder:"), split, classes=classes, labels=labels)
    _refuse_paths(source)
    return open_tfds(source, split, data_dir, classes=classes, labels=labels)


def source_splits(source: str, data_dir: str | None = None) -> list[str]:
    """Names of the splits a source has."""
    if source.startswith("folder:"):
        return list(folder_splits(source.removeprefix("folder:")))
    _refuse_paths(source)
    return split_names(source, data_dir)


def open_splits(
    source: str,
    train_split: str = "train",
    *,
    val_split: str | None = "validation",
    data_dir: str | None = None,
    holdout: float = 0.1,
    split_seed: int = 0,
    labels: bool = True,
    classes: tuple[str, ...] | None = None,
) -> tuple[Source, Source | None, list[str]]:
    """Training and validation source, and the names of images held out of training where there is no such split."""
    train = open_source(source, train_split, data_dir=data_dir, classes=classes, labels=labels)
    if val_split is None:
        return train, None, []
    if "+" in train_split and val_split in train_split.split("+"):
        raise InputError(f"data.val_split={val_split!r} is part of data.train_split={train_split!r}: choose another")
    splits = source_splits(source, data_dir)
    wanted = split_parts(val_split)[0]
    if wanted in splits or ALIASES.get(wanted) in splits:
        split = val_split if wanted in splits else val_split.replace(wanted, ALIASES[wanted], 1)
        return train, open_source(source, split, data_dir=data_dir, classes=train.classes, labels=labels), []
    if ALIASES.get(val_split) != "validation":
        raise unknown(f"split of {source!r}", val_split, splits)
    if not 0 <= holdout < 1:
        raise InputError(f"data.holdout={holdout} is not a share between 0 and 1")
    count = round(holdout * train.size)
    return _split_off(train, count, split_seed, "validation") if count else (train, None, [])


def _split_off(train: Source, count: int, seed: int, name: str) -> tuple[Source, Source, list[str]]:
    """The examples without `count` of them (stratified), these as a source of their own, and their names."""
    held = stratified(train.labels, train.size, count, seed)
    kept = np.setdiff1d(np.arange(train.size), held)
    val = train.take(held)._replace(split=name)
    return train.take(kept), val, val.ids()


def make_recipe(name: str, fields: dict[str, Any]) -> Example:
    """The named recipe with the config's fields; a field it does not have is an error."""
    if name not in RECIPES:
        raise unknown("data.recipe", name, RECIPES)
    known = inspect.signature(RECIPES[name]).parameters
    strange = next((key for key in fields if key not in known), None)
    if strange:
        raise InputError(f"recipe {name!r} has no field data.{strange}{nearest(strange, known)}")
    return RECIPES[name](**fields)


def as_statistics(statistics: str | tuple, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std), one number per channel each, from a name or the numbers themselves."""
    if isinstance(statistics, str) and statistics not in STATISTICS:
        raise unknown("data.statistics", statistics, STATISTICS)
    mean, std = STATISTICS[statistics] if isinstance(statistics, str) else statistics
    mean, std = (tuple(map(float, values)) * (channels if len(values) == 1 else 1) for values in (mean, std))
    if len(mean) != channels or len(std) != channels:
        raise InputError(f"data.statistics={statistics!r} is for {len(mean)} channels, the model has {channels}")
    if min(std) <= 0:
        raise InputError(f"data.statistics={statistics!r}: a standard deviation must be above 0")
    return mean, std


def _chosen(train: Source, limit: int | None, labels_per_class: int | None, seed: int) -> Source:
    """All of `train`, or what one of the two fields leaves of it."""
    if limit is not None and labels_per_class is not None:
        raise InputError(f"data.limit={limit} and data.labels_per_class={labels_per_class} exclude each other; set one")
    if limit is not None:
        return _limited(train, limit, seed)
    return train if labels_per_class is None else _few(train, labels_per_class, seed)


def _limited(train: Source, limit: int, seed: int) -> Source:
    if not 1 <= limit <= train.size:
        raise InputError(f"data.limit={limit} of {train.name} is not between 1 and {train.size}")
    return train.take(stratified(train.labels, train.size, limit, seed))


def _few(train: Source, per_class: int, seed: int) -> Source:
    if train.classes is None:
        raise InputError(f"data.labels_per_class={per_class}, but {train.name} has no labels")
    counts = np.bincount(train.labels, minlength=len(train.classes))
    least = int(counts.argmin())
    if not 1 <= per_class <= counts[least]:
        few = f"class {train.classes[least]!r} of {train.name} has {counts[least]} training images"
        raise InputError(f"data.labels_per_class={per_class} is not between 1 and {counts[least]}: {few}")
    return train.take(balanced(train.labels, per_class, seed))


def _tuning(train: Source, share: float, seed: int) -> tuple[Source, Source, list[str]]:
    count = round(share * train.size)
    if not 0 < count < train.size:
        raise InputError(f"data.tune={share} of {train.size} training images leaves none to train on or to score")
    return _split_off(train, count, seed, TUNE)


def _refuse_paths(source: str) -> None:
    if source.startswith(("/", ".", "~")):
        raise InputError(f"unknown data set {source!r}: write folder:{source} for a folder of images")
    scheme = source.split(":")[0]
    if ":" in source and "/" in source.split(":", 1)[1] and nearest(scheme, ["folder"]):
        raise InputError(f"unknown source {source!r} (did you mean 'folder:{source.split(':', 1)[1]}'?)")
