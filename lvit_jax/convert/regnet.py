"""timm's RegNetY -> our parameters, with every BatchNorm folded into its convolution."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lvit_jax.errors import InputError
from lvit_jax.models import ENCODERS
from lvit_jax.tree import unflatten

BN_EPS = 1e-5
_STEM, _HEAD = "stem.conv.weight", "head.fc"


class RegNetArch(NamedTuple):
    """A classifier of timm's RegNetY."""

    name: str
    channels: int
    image_size: tuple[int, int]
    classes: int


def describe(params: Mapping, name: str, stated: Mapping[str, Any]) -> tuple[RegNetArch, dict[str, Any]]:
    """What imported parameters are, and the sections of a config that say so.

    `head_norm`: the classifier reads the pooled map as it is.

    Args: stated: what the folder or the command line says; image_size is 224 where nothing does.
    """
    channels, classes = params["encoder"]["stem"]["kernel"].shape[2], len(params["head"]["fc"]["bias"])
    size = tuple(stated["image_size"]) if "image_size" in stated else (224, 224)
    model = {"name": name, "image_size": list(size), "channels": channels, "dtype": "float32"}
    objective = {"name": "classify", "pool": "mean", "classes": classes, "head_norm": False}
    return RegNetArch(name, channels, size, classes), {"model": model, "objective": objective}


def size_of(weights: Mapping[str, np.ndarray], where: str) -> str | None:
    """The name in `models.ENCODERS` of the RegNet that these tensors are, or None where they are no RegNet's.

    Raises:
      InputError: a RegNet of another size, or without classifier.
    """
    if _STEM not in weights or "s1.b1.conv1.conv.weight" not in weights:
        return None
    depths, widths = [], []
    for stage in range(1, 5):
        blocks = [w for name, w in weights.items() if re.fullmatch(rf"s{stage}\.b\d+\.conv3\.conv\.weight", name)]
        depths.append(len(blocks))
        widths.append(blocks[0].shape[0] if blocks else 0)
    known = {name: size for name, (kind, size) in ENCODERS.items() if kind == "regnet"}
    for name, size in known.items():
        if (size["widths"], size["depths"]) == (tuple(widths), tuple(depths)):
            if f"{_HEAD}.weight" not in weights:
                raise InputError(f"{where} is a {name} without its classifier ({_HEAD}.weight): it can teach nothing")
            return name
    raise InputError(f"{where} is a RegNet of widths {widths} and depths {depths}; known: {', '.join(known)}")


def from_timm(weights: Mapping[str, np.ndarray], name: str, where: str) -> dict:
    """Tensors of timm's RegNetY `name` as {"encoder": …, "head": …}: every tensor is used.

    Raises:
      InputError: names the first tensor that is missing or has no place.
    """
    left, made = dict(weights), {}

    def take(key: str) -> np.ndarray:
        if key not in left:
            raise InputError(f"{where} has no tensor {key!r}")
        return np.asarray(left.pop(key), np.float64)

    for torch, ours in _folded(name).items():
        kernel, bias = _fold(take(f"{torch}.conv.weight"), *(take(f"{torch}.bn.{part}") for part in _STATISTICS))
        made |= {f"encoder/{ours}/kernel": kernel.transpose(2, 3, 1, 0), f"encoder/{ours}/bias": bias}
    for torch, ours in _gates(name).items():
        made[f"encoder/{ours}/kernel"] = take(f"{torch}.weight").transpose(2, 3, 1, 0)
        made[f"encoder/{ours}/bias"] = take(f"{torch}.bias")
    made |= {"head/fc/kernel": take(f"{_HEAD}.weight").T, "head/fc/bias": take(f"{_HEAD}.bias")}
    for key in left:
        if not key.endswith("num_batches_tracked"):
            raise InputError(f"{where} has a tensor {key!r} that a {name} has no place for")
    return unflatten({key: np.ascontiguousarray(array, np.float32) for key, array in made.items()})


_STATISTICS = ("weight", "bias", "running_mean", "running_var")


def _fold(
    kernel: np.ndarray, scale: np.ndarray, shift: np.ndarray, mean: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The convolution (OIHW, without bias) and the BatchNorm after it as one convolution with bias."""
    factor = scale / np.sqrt(variance + BN_EPS)
    return kernel * factor[:, None, None, None], shift - mean * factor


def _folded(name: str) -> dict[str, str]:
    """timm's module -> ours, for each convolution with a BatchNorm; the first block of a stage has a shortcut."""
    made = {"stem": "stem"}
    for torch, ours, first in _blocks(name):
        for part in ("conv1", "conv2", "conv3", *(("downsample",) if first else ())):
            made[f"{torch}.{part}"] = f"{ours}/{part}"
    return made


def _gates(name: str) -> dict[str, str]:
    """timm's module -> ours, for the two plain convolutions of each squeeze and excitation."""
    return {f"{torch}.se.{part}": f"{ours}/se_{part}" for torch, ours, _ in _blocks(name) for part in ("fc1", "fc2")}


def _blocks(name: str) -> list[tuple[str, str, bool]]:
    """(timm's name, ours, whether it is the first of its stage) for every block."""
    depths = enumerate(ENCODERS[name][1]["depths"], start=1)
    return [(f"s{s}.b{b}", f"stage_{s}_block_{b}", b == 1) for s, depth in depths for b in range(1, depth + 1)]
