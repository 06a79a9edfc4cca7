"""A model's sizes to and from the record of a workdir (its config.json)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lvit_jax.convert import hiera_export, relative_export, swin_export
from lvit_jax.convert.arch import NORM_EPS, Arch
from lvit_jax.convert.hiera import HieraArch
from lvit_jax.convert.relative import RelativeArch
from lvit_jax.convert.swin import SwinArch
from lvit_jax.errors import InputError
from lvit_jax.models import DECODERS, ENCODERS
from lvit_jax.models.positions import FIXED

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CROP = 0.875  # share of the resized image that an evaluation looks at (MAE, MAE-Lite, timm)
DECODE_FROM = 8  # of D²-MAE, where a config does not say it
AnyArch = Arch | HieraArch | SwinArch | RelativeArch
_OTHER = {"hiera": hiera_export.arch_of, "swin": swin_export.arch_of, "vit_rpe": relative_export.arch_of}


def arch_of(record: Mapping[str, Any], params: Mapping[str, Any], decoder: bool) -> AnyArch:
    """What a run or an import holds, from its parameters and, where shapes do not tell, from its config.

    Args:
      record: of `training.record.read_record`.
      params: the tree of its parameters.
      decoder: with the decoder of a masked autoencoder. That of a D²-MAE run reads the norm of block 8, so that with
        it the model is a MAE of 8 blocks; without it, blocks 1 to 12.

    Raises:
      InputError: a model of no exported kind; a decoder was asked for and there is none; a last block with other heads
        than the rest.
    """
    model, objective = record["config"]["model"], record["config"]["objective"] or {}
    kind = ENCODERS[model["name"]][0]
    if "dist_token" in params["encoder"] or "neck" in params:
        raise InputError("no PyTorch format can say that a model has a distillation token or a layer before its heads")
    if kind in _OTHER:
        return _OTHER[kind](record, params, decoder)
    if kind != "vit":
        raise InputError(f"exports are of ViTs, Hieras and Swins, and {model['name']} is of kind {kind!r}")
    encoder, kernel = params["encoder"], params["encoder"]["patch_embed"]["kernel"]
    depth = sum(name.startswith("block_") for name in encoder)
    if decoder and not ("decoder" in params and "decoder" in objective):  # SimMIM's head is none either
        raise InputError(f"there is no decoder in this {objective.get('name', 'backbone')}")
    if decoder:
        depth = decode_from(record) or depth
    size = model["image_size"]
    heads = model.get("heads") or ENCODERS[model["name"]][1]["heads"]
    if (model.get("last_heads") or heads) != heads:
        raise InputError(
            f"the last block has {model['last_heads']} heads and the others {heads}, which no PyTorch format can say; "
            f"fine-tune the model first (--config.init.heads_from={heads})"
        )
    return Arch(
        width=kernel.shape[3],
        depth=depth,
        heads=heads,
        patch_size=kernel.shape[0],
        channels=kernel.shape[2],
        image_size=(size, size) if isinstance(size, int) else tuple(size),
        positions="learned" if "pos_embed" in encoder else _fixed(model),
        norm_eps=model.get("norm_eps", NORM_EPS),
        decoder=_decoder(objective["decoder"], params["decoder"]) if decoder else None,
        pool=objective.get("pool", "mean") if "head" in params else None,
        classes=params["head"]["fc"]["bias"].shape[0] if "head" in params else None,
    )


def _fixed(model: Mapping[str, Any]) -> str:
    """The fixed table of a model without a learned one; MAE's for a record that says "learned" and has none."""
    stated = model.get("positions", "sincos")
    return stated if stated in FIXED else "sincos"


def _decoder(stated: str | Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    size = DECODERS[stated] if isinstance(stated, str) else stated
    return {**size, "positions": "learned" if "pos_embed" in params else "sincos"}


def decode_from(record: Mapping[str, Any]) -> int | None:
    """The inner block (counted from 1) whose output the final norm and the decoder of a D²-MAE read; else None."""
    objective = record["config"]["objective"] or {}
    return objective.get("decode_from", DECODE_FROM) if objective.get("name") == "d2" else None


def with_decoder(record: Mapping[str, Any], params: Mapping[str, Any], to: str) -> bool:
    """Whether an export takes a decoder along where nothing is said.

    A MAE's goes to 'hf', and to 'mae' unless it reads an inner block (D²-MAE). Of SimMIM's heads only a Swin's have a
    layout: that of SimMIM's own files.
    """
    objective = record["config"]["objective"] or {}
    if ENCODERS[record["config"]["model"]["name"]][0] == "swin":
        return to == "mae" and objective.get("name") == "simmim" and "decoder" in params
    has = "decoder" in params and "decoder" in objective
    return has and (to == "hf" or (to == "mae" and not decode_from(record)))


def config_of(arch: Arch, objective: Mapping[str, Any]) -> dict[str, Any]:
    """The `model` and `objective` sections that describe imported weights, as a run's config would.

    Args:
      arch: what was read.
      objective: further settings that the file states (mask_ratio, norm_pix).
    """
    same = [name for name, (kind, size) in ENCODERS.items() if kind == "vit" and size["width"] == arch.width]
    model = {
        "name": same[0] if same else "vit_base",
        "image_size": arch.image_size[0] if arch.image_size[0] == arch.image_size[1] else list(arch.image_size),
        **{key: getattr(arch, key) for key in ("width", "depth", "heads", "patch_size", "channels", "positions")},
        "dtype": "float32",  # of evaluations and predictions: what the weights were compared in
    }
    if arch.norm_eps != NORM_EPS:
        model["norm_eps"] = arch.norm_eps
    if arch.pool:
        return {"model": model, "objective": {"name": "classify", "pool": arch.pool, "classes": arch.classes}}
    if not arch.decoder:
        return {"model": model, "objective": None}
    size = {key: value for key, value in arch.decoder.items() if (key, value) != ("positions", "sincos")}
    return {"model": model, "objective": {"name": "mae", "decoder": size, **objective}}


def pixels_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Classes, mean and std of a record, and `crop`: the share of its evaluation transform's centre crop."""
    own = record["config"].get("data") or {}
    return {"crop": own.get("eval_crop", CROP), **record["data"]}


def data_of(arch: Any, stated: Mapping[str, Any]) -> dict[str, Any]:
    """The `data` of an import's record: class names, statistics of its pixels (ImageNet's where unstated), its crop."""
    plain = IMAGENET if arch.channels == 3 else (np.zeros(arch.channels).tolist(), np.ones(arch.channels).tolist())
    classes = stated.get("classes")
    if classes is not None and len(classes) != arch.classes:
        raise InputError(f"config.json names {len(classes)} classes, but the head has {arch.classes}")
    mean, std = stated.get("mean", plain[0]), stated.get("std", plain[1])
    return {"classes": classes, "mean": list(mean), "std": list(std), "crop": stated.get("crop", CROP)}
