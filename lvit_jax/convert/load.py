"""PyTorch weights -> our parameters and what they are: layout, sizes, class names, statistics."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lvit_jax.convert import files, hiera, hiera_names, regnet, relative, swin
from lvit_jax.convert.arch import Arch, infer
from lvit_jax.convert.hiera import HieraArch
from lvit_jax.convert.names import normalise
from lvit_jax.convert.params import from_torch
from lvit_jax.convert.record import config_of, data_of
from lvit_jax.errors import InputError

_DECODER = r"(decoder_.*|mask_token)"


class Imported(NamedTuple):
    """A file of weights as this package has them."""

    params: dict[str, Any]  # {"encoder": …, "decoder": …, "head": …}
    arch: Arch | HieraArch | swin.SwinArch | regnet.RegNetArch | relative.RelativeArch
    config: dict[str, Any]  # sections `model` and `objective`
    data: dict[str, Any]  # classes, mean, std
    layout: str  # 'mae', 'hf', 'hiera', 'swin', 'rpe' or 'regnet'
    notes: list[str]  # what was left out, a line each


def load(path: str | Path, said: Mapping[str, Any]) -> Imported:
    """Reads a file or folder, finds out its layout and sizes, and converts it.

    Args:
      path: .pth, .pth.tar, .safetensors, or a folder of transformers or timm.
      said: what the command line says: heads, decoder_heads, image_size; None where it says nothing.

    Raises:
      InputError: what `files.read`, `infer` and `from_torch` refuse; a layout that is neither; a head count on the
        command line that the file contradicts.
    """
    weights, stated = files.read(path)
    where = Path(path).name
    size = regnet.size_of(weights, where)
    if size:
        return _regnet(weights, size, _merge(stated, said, where), where)
    if swin.is_swin(weights):
        params, arch, notes = swin.read_swin(weights, _merge(stated, said, where), where)
        return Imported(params, arch, swin.config_of(arch), data_of(arch, stated), "swin", notes)
    layout, names = hiera_names.find(weights)
    if layout:
        return _load_hiera(weights, layout, names, _merge(stated, said, where), where)
    layout, names = normalise(weights)
    if layout is None:
        known = "no ViT, Swin, Hiera or RegNetY of MAE, timm or transformers"
        raise InputError(f"{where} holds {known}; its first tensor is {min(weights)!r}")
    notes = _left_out(weights, names)
    found = {name: weights[spelt] for spelt, name in names.items()}
    stated = _merge(stated, said, where)
    if layout == "mae" and relative.is_relative(found):
        return _relative(found, stated, where, notes)
    arch = infer(found, layout, stated, where)
    partial = f"blocks.{arch.depth}.norm1.weight" in found
    if partial:
        notes.append(f"D²-MAE: block {arch.depth + 1} and the decoder left out; the final norm is that of block 8")
        found = {name: array for name, array in found.items() if not re.fullmatch(_DECODER, name)}
        arch = arch._replace(decoder=None)
    params, arch = from_torch(found, arch, layout, where)
    config = config_of(arch, stated.get("objective", {}))
    if partial:
        config["objective"] = {"name": "d2"}
    return Imported(params, arch, config, data_of(arch, stated), layout, notes)


def _relative(weights: Mapping[str, np.ndarray], stated: Mapping[str, Any], where: str, notes: list[str]) -> Imported:
    arch = relative.infer(weights, stated, where)
    objective = {"name": "classify", "pool": arch.pool, "classes": arch.classes} if arch.pool else None
    config = {"model": relative.model_section(arch), "objective": objective}
    return Imported(relative.from_torch(weights, arch, where), arch, config, data_of(arch, stated), "rpe", notes)


def _regnet(weights: Mapping[str, np.ndarray], name: str, stated: Mapping[str, Any], where: str) -> Imported:
    params = regnet.from_timm(weights, name, where)
    arch, config = regnet.describe(params, name, stated)
    notes = ["BatchNorms folded into their convolutions: a frozen teacher, not to be trained"]
    return Imported(params, arch, config, data_of(arch, stated), "regnet", notes)


def _load_hiera(weights: Mapping, layout: str, names: Mapping, stated: Mapping[str, Any], where: str) -> Imported:
    found = {name: weights[spelt] for spelt, name in names.items()}
    arch = hiera.infer(found, layout, stated, where)
    params = hiera.from_torch(found, arch, layout, where)
    config = hiera.config_of(arch, stated.get("objective", {}))
    return Imported(params, arch, config, data_of(arch, stated), layout, _left_out(weights, names))


def _left_out(weights: Mapping, names: Mapping) -> list[str]:
    left = len(weights) - len(names)
    return [f"left out {left} tensors of another model"] if left else []


def _merge(stated: Mapping[str, Any], said: Mapping[str, Any], where: str) -> dict[str, Any]:
    for key, value in said.items():
        if value is not None and stated.get(key, value) != value:
            raise InputError(f"--{key.replace('_', '-')}={value}, but the config.json of {where} says {stated[key]}")
    return {**stated, **{key: value for key, value in said.items() if value is not None}}


def count(params: Mapping[str, Any]) -> int:
    """The number of parameters in a tree."""
    return sum(count(x) if isinstance(x, Mapping) else int(np.size(x)) for x in params.values())
