"""The images that an analysis or an embedding reads: a model's own or any others, with or without labels."""

from lvit_jax.build.backbone import Backbone
from lvit_jax.data.folders import ALIASES
from lvit_jax.data.source import Source
from lvit_jax.data.sources import open_source, open_splits, source_splits
from lvit_jax.errors import InputError


def open_chosen(
    backbone: Backbone, source: str | None = None, split: str | None = None, data_dir: str | None = None
) -> Source:
    """One split of the model's own source, or of another one.

    Args:
      source, data_dir: None for the model's own.
      split: None for the validation images (those that the run held out, of its own source), or else the only split.

    Raises:
      InputError: an import without a source, no such split, or several and none of validation.
    """
    own = backbone.config["data"]
    if source is None and own["source"] is None:
        raise InputError(f"{backbone.name} is an import without data of its own; name some with --source=")
    theirs = source in (None, own["source"])
    source, data_dir = source or own["source"], data_dir or (own["data_dir"] if theirs else None)
    splits = source_splits(source, data_dir)
    named = [name for name in splits if ALIASES.get(name) == "validation"]
    held = theirs and "holdout" in own and not named
    if held and ALIASES.get(split or "validation") == "validation":
        fields = {key: own[key] for key in ("holdout", "split_seed")}
        _, val, _ = open_splits(source, own["train_split"], data_dir=data_dir, labels=False, **fields)
        if val is not None:
            return val
    if split is None and not named and len(splits) > 1:
        raise InputError(f"{source!r} has no validation split; choose one with --split=: {', '.join(splits)}")
    return open_source(source, split or (named or splits)[0], data_dir=data_dir, labels=False)
