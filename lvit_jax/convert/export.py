"""Writes a model for PyTorch, reads it back and holds it against the JAX model it came from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lvit_jax.convert import files, hiera_export, relative_export, swin_export
from lvit_jax.convert.arch import Arch, infer
from lvit_jax.convert.compare import fixed_batch, library_outputs, outputs, torch_outputs
from lvit_jax.convert.folders import hf_config, hf_preprocessor, timm_config
from lvit_jax.convert.hiera import HieraArch
from lvit_jax.convert.load import load
from lvit_jax.convert.names import normalise
from lvit_jax.convert.params import from_torch, to_torch
from lvit_jax.convert.record import AnyArch
from lvit_jax.convert.relative import RelativeArch
from lvit_jax.convert.swin import SwinArch
from lvit_jax.errors import InputError

TOLERANCE = 1e-4  # of the largest output
_OTHER = {HieraArch: hiera_export.write, SwinArch: swin_export.write, RelativeArch: relative_export.write}


def write(
    folder: Path,
    to: str,
    params: Mapping[str, Any],
    arch: AnyArch,
    data: Mapping[str, Any],
    objective: Mapping[str, Any],
    notes: Mapping[str, Any],
) -> bool:
    """Writes weights and config.json into an existing folder.

    Args:
      to: a name of `convert.FORMATS`.
      params: the tree of parameters.
      arch: what of it is exported.
      data: classes, mean, std, crop.
      objective: of the run's config: mask_ratio and norm_pix, where it has them.
      notes: further plain settings for config.json: licence, and what the weights are.

    Returns:
      Whether the weights are a pickle (.pth).

    Raises:
      InputError: a model that the format cannot hold.
    """
    if type(arch) in _OTHER:
        return _OTHER[type(arch)](folder, to, params, arch, data, objective, notes)
    if to == "mae":
        return files.write_file(folder / "mae", to_torch(params, arch, "mae"), {"heads": arch.heads, **notes})
    if to == "timm":
        config = timm_config(arch, data, notes.get("licence")) | {"lvit_jax": dict(notes)}
    else:
        config = hf_config(arch, data, objective) | {"lvit_jax": dict(notes)}
        files.write_json(folder / "preprocessor_config.json", hf_preprocessor(arch, data["mean"], data["std"]))
    files.write_safetensors(folder / "model.safetensors", to_torch(params, arch, "mae" if to == "timm" else "hf"))
    files.write_json(folder / "config.json", config)
    return False


def check(folder: Path, to: str, params: Mapping[str, Any], arch: AnyArch) -> dict[str, Any]:
    """Reads the folder back and compares its outputs on a fixed batch with those of the JAX model.

    Through timm or transformers where they can be imported, else in plain PyTorch, else imported into JAX again.

    Returns:
      {"max_abs_difference", "scale": the largest output (at least 1), "checked_with"}

    Raises:
      InputError: they differ by more than 1e-4 of the scale.
    """
    images, noise = fixed_batch(arch)
    ours = outputs(params, arch, images, noise)
    theirs, through = library_outputs(folder, to, arch, images, noise)
    if theirs is None:
        theirs, instead = _read_back(folder, to, arch, images, noise)
        through = f"{instead} ({through})" if through else instead
    difference, scale = float(np.abs(ours - theirs).max()), max(1.0, float(np.abs(ours).max()))
    if not difference <= TOLERANCE * scale:  # a NaN is a difference, too
        raise InputError(f"the written model differs by {difference:.3g} from the JAX model ({through}); nothing kept")
    return {"max_abs_difference": difference, "scale": scale, "checked_with": through}


def _read_back(folder: Path, to: str, arch: AnyArch, images: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, str]:
    """Outputs of the files under `folder`, read as any import is; and what computed them."""
    found = files.find(folder) if to == "mae" else folder
    if not isinstance(arch, Arch):
        read = load(found, _unstated(arch) if to == "mae" else {})
        return outputs(read.params, arch if to == "mae" else read.arch, images, noise), "jax"
    weights, stated = files.read(found)
    layout, _ = normalise(weights)
    stated |= {"heads": arch.heads, "image_size": arch.image_size, "norm_eps": arch.norm_eps}
    stated |= {"decoder_heads": arch.decoder["heads"]} if arch.decoder else {}
    params, read = from_torch(weights, infer(weights, layout, stated, str(folder)), layout, str(folder))
    made = torch_outputs(weights if layout == "mae" else to_torch(params, read, "mae"), read, images, noise)
    return (outputs(params, read, images, noise), "jax") if made is None else (made, "torch")


def _unstated(arch: AnyArch) -> dict[str, Any]:
    """What a file of tensors alone does not say."""
    if not isinstance(arch, HieraArch):
        return {"image_size": arch.image_size}
    said = {"heads": arch.heads, "image_size": arch.image_size, "norm_eps": arch.norm_eps}
    return said | ({"decoder_heads": arch.decoder["heads"]} if arch.decoder else {})
