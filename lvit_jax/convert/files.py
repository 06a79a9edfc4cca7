"""Files of weights, read and written: .pth, .pth.tar, .safetensors, folders. Torch only where a file needs it."""

import argparse
import json
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lvit_jax.errors import InputError

PICKLES = (".pth", ".pth.tar", ".pt", ".tar", ".bin", ".ckpt")
# facebookresearch/mae and MAE-Lite; Lightning and many others; facebookresearch/hiera
NESTS = ("model", "state_dict", "model_state_dict", "model_state")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_TIMM_HEADS = {"tiny": 3, "small": 6, "base": 12, "large": 16, "huge": 16}  # what timm's own names stand for


def read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All tensors of a file or of a transformers/timm folder, as float32, and what its config.json states.

    Returns:
      ({name: array}, {heads, decoder_heads, image_size, norm_eps, pool, classes, mean, std, objective, hiera}: those
      stated).

    Raises:
      InputError: a missing, truncated or unreadable file, a pickle that holds more than tensors and settings, or a
        .pth where torch is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"no file or folder {str(path)!r}")
    if not path.is_dir():
        return _read_file(path), {}
    found = [path / name for name in _WEIGHTS if (path / name).is_file()] or sorted(path.glob("*.safetensors"))
    if not found:
        raise InputError(f"{path} holds neither {' nor '.join(_WEIGHTS)}")
    files = found[:1] if found[0].name in _WEIGHTS else found  # several: the shards of a large model
    return {name: array for file in files for name, array in _read_file(file).items()}, _stated(path)


def _read_file(path: Path) -> dict[str, np.ndarray]:
    if path.name.endswith(".safetensors"):
        return _read_safetensors(path)
    if path.name.endswith(PICKLES):
        return _read_pickle(path)
    raise InputError(f"{path} is no {', '.join(PICKLES)} or .safetensors file, and no folder")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {name: np.asarray(file.get_tensor(name), np.float32) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a readable safetensors file: {_line(error)}") from error


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise InputError(f"reading {path.name} needs PyTorch: pip install 'lvit_jax[torch]'") from error
    try:
        with torch.serialization.safe_globals(_allowed()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's protocol: what cannot be read is an error anyhow
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path} {_refused(str(error))}: only tensors and plain settings are loaded") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise InputError(f"{path} is not a readable PyTorch file (truncated?): {_line(error)}") from error
    return _tensors(content, path)


def _refused(message: str) -> str:
    named = re.search(r"GLOBAL ([\w.]+)", message) or re.search(r"got <class '([\w.]+)'>", message)
    if named:
        return f"holds an object of type {named[1]}"
    return f"is no file of weights ({message.split('WeightsUnpickler error:')[-1].strip().splitlines()[0]})"


def _allowed() -> list:
    """Beyond tensors: the settings that MAE's and MAE-Lite's files carry, under numpy's old and new module names."""
    scalar = np.float64(0).__reduce__()[0]
    rebuild = np.zeros(1).__reduce__()[0]
    dtypes = [type(np.dtype(kind)) for kind in "?bhilqBHILQefd"]
    return [
        argparse.Namespace,
        np.dtype,
        np.ndarray,
        *dtypes,
        *((f, f"numpy.{core}.multiarray.{f.__name__}") for f in (scalar, rebuild) for core in ("core", "_core")),
    ]


def _tensors(content: Any, path: Path) -> dict[str, np.ndarray]:
    for key in NESTS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, not a dict of tensors")
    found = {name: value for name, value in content.items() if hasattr(value, "detach")}
    if not found:
        raise InputError(f"{path} holds no tensors; its keys: {', '.join(map(str, list(content)[:5]))}")
    return {name: value.detach().float().numpy() for name, value in found.items() if value.is_floating_point()}


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0][:120]


def _stated(folder: Path) -> dict[str, Any]:
    """What the config.json of a timm or transformers folder says, in our words."""
    config = _json(folder / "config.json")
    stated = _stated_timm(config) if "architecture" in config else _stated_hf(config, folder)
    return {key: value for key, value in stated.items() if value is not None}


def _stated_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    args, statistics = config.get("model_args", {}), config.get("pretrained_cfg", {})
    size = re.match(r"vit_(\w+?)_patch", config["architecture"])
    pool = {"avg": "mean", "token": "cls"}.get(args.get("global_pool", config.get("global_pool")))
    return {
        "heads": args.get("num_heads", _TIMM_HEADS.get(size[1]) if size else None),
        "image_size": args.get("img_size") or (statistics.get("input_size") or (None,))[1:] or None,
        "pool": pool if config.get("num_classes") else None,
        "classes": config.get("label_names"),
        "mean": statistics.get("mean"),
        "std": statistics.get("std"),
        "crop": statistics.get("crop_pct"),
    }


def _stated_hf(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    labels = config.get("id2label")
    named = labels and not all(name == f"LABEL_{i}" for i, name in labels.items())
    statistics = _json(folder / "preprocessor_config.json")
    masked = config.get("model_type") in ("vit_mae", "hiera")
    if config.get("model_type") == "hiera":
        config, hiera = _stated_hiera(config)
    else:
        hiera = None
    return {
        "hiera": hiera,
        "heads": config.get("num_attention_heads"),
        "decoder_heads": config.get("decoder_num_attention_heads"),
        "image_size": config.get("image_size"),
        "norm_eps": config.get("layer_norm_eps"),
        "classes": [labels[str(i)] for i in range(len(labels))] if named else None,
        "mean": statistics.get("image_mean"),
        "std": statistics.get("image_std"),
        "objective": {key: config[ours] for key, ours in _MASKED.items() if ours in config} if masked else None,
    }


def _stated_hiera(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """HieraConfig in the words of ViT's, and what only a Hiera has; what it leaves out is at transformers' default."""
    heads = config.get("num_heads", [1, 2, 4, 8])
    local = config.get("masked_unit_attention", [True, True, False, False])
    if heads != [heads[0] * 2**stage for stage in range(len(heads))] or local != [i < 2 for i in range(len(local))]:
        raise InputError(f"a Hiera of heads {heads} and mask-unit attention {local} is none of the paper's")
    words = {
        "num_attention_heads": heads[-1],
        "decoder_num_attention_heads": config.get("decoder_num_heads"),
        "mask_ratio": config.get("mask_ratio", 0.6),
        "norm_pix_loss": config.get("normalize_pixel_loss", True),
    }
    fields = {
        "patch_stride": config.get("patch_stride", [4])[0],
        "patch_padding": config.get("patch_padding", [3])[0],
        "mask_unit": config.get("masked_unit_size", [8])[0],
        "q_pool": config.get("num_query_pool", 3),
    }
    return {**config, **words}, fields


_MASKED = {"mask_ratio": "mask_ratio", "norm_pix": "norm_pix_loss"}


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"{path} is not readable JSON: {_line(error)}") from error


def write_safetensors(path: Path, weights: Mapping[str, np.ndarray]) -> None:
    """Tensors in one .safetensors file, without torch; 'format' says whose layout the tensors have."""
    from safetensors.numpy import save_file

    save_file(dict(weights), path, metadata={"format": "pt"})


def write_file(path: Path, weights: Mapping[str, np.ndarray], notes: Mapping[str, Any], key: str = "model") -> bool:
    """One file of tensors: path.pth, or path.safetensors where PyTorch is missing; returns whether it is the first.

    The .pth is {key: {name: tensor}} ('model' in facebookresearch/mae's and MAE-Lite's own files), plus plain settings.
    """
    try:
        import torch
    except (ImportError, OSError):
        write_safetensors(path.with_suffix(".safetensors"), weights)
        return False
    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    torch.save({key: tensors, **notes}, path.with_suffix(".pth"))
    return True


def find(folder: Path) -> Path:
    """The file that `write_file` left in a folder."""
    return next(path for path in folder.iterdir() if path.suffix in (".pth", ".safetensors"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """A config.json, as timm and transformers write theirs."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
