"""The model card (README.md) of an exported folder, with the snippet that loads it."""

from collections.abc import Mapping, Sequence
from typing import Any

from lvit_jax.convert.arch import Arch
from lvit_jax.convert.hiera import HieraArch

POSITIONS = {"sincos": "fixed sin-cos", "sincos_moco": "fixed sin-cos, row first (MoCo-v3)", "learned": "learned"}

_TIMM = """import timm
import torch

model = timm.create_model("local-dir:{folder}", pretrained=True).eval()
images = torch.zeros(1, {c}, {h}, {w})  # pixels in [0, 1], minus mean, divided by std
print(model(images).shape)
"""
_HF = """import torch
from transformers import {kind}

model = {kind}.from_pretrained("{folder}").eval()
images = torch.zeros(1, {c}, {h}, {w})  # pixels in [0, 1], minus mean, divided by std
print(model(images).logits.shape)
"""
_SAFE = """from safetensors.numpy import load_file

weights = load_file("{folder}/mae.safetensors")  # names and shapes of facebookresearch/mae
print(len(weights), sum(array.size for array in weights.values()))
"""
_PICKLE = """import torch

weights = torch.load("{folder}/mae.pth", weights_only=True)["model"]  # for load_state_dict of facebookresearch/mae
print(len(weights), sum(tensor.numel() for tensor in weights.values()))
"""
_HIERA = """import torch

weights = torch.load("{folder}/hiera.pth", weights_only=True)["model_state"]  # names of facebookresearch/hiera
print(len(weights), sum(tensor.numel() for tensor in weights.values()))
"""
_HIERA_SAFE = """from safetensors.numpy import load_file

weights = load_file("{folder}/hiera.safetensors")  # names and shapes of facebookresearch/hiera
print(len(weights), sum(array.size for array in weights.values()))
"""


def snippet(to: str, arch: Arch | HieraArch, folder: str, pickled: bool) -> str:
    """Python that loads the export from `folder` and prints something of it."""
    files, kinds = (_SAFE, _PICKLE), ("ViTMAEForPreTraining", "ViTForImageClassification")
    if isinstance(arch, HieraArch):
        files, kinds = (_HIERA_SAFE, _HIERA), ("HieraForPreTraining", "HieraForImageClassification")
    template, kind = {"timm": _TIMM, "hf": _HF, "mae": files[pickled]}[to], kinds[bool(arch.pool)]
    h, w = arch.image_size
    return template.format(folder=folder, kind=kind, c=arch.channels, h=h, w=w)


def card(
    to: str,
    arch: Arch | HieraArch,
    data: Mapping[str, Any],
    lineage: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
    code: str,
) -> str:
    """The text of README.md.

    Args:
      to: the format.
      arch: what was exported.
      data: classes, mean, std, crop.
      lineage: what the weights come from, the model itself first: role, workdir, objective, data, licence, source.
      notes: what a reader must not miss.
      code: the snippet.
    """
    licence = lineage[0]["licence"]
    task = "image-classification" if arch.pool else "image-feature-extraction"
    head = ["---", f"license: {licence or 'unknown'}", f"tags: [{task}, vision, lvit_jax]", "---", ""]
    rows = [f"| {name} | {value} |" for name, value in _facts(arch, data).items()]
    classes = data.get("classes") if arch.pool else None
    text = [
        *head,
        f"# {'Hiera' if isinstance(arch, HieraArch) else 'ViT'} ({_title(arch)})",
        "",
        *[f"**{note}**\n" for note in notes],
    ]
    text += ["| | |", "|---|---|", *rows, "", "## Load it", "", "```python", code.rstrip(), "```", ""]
    text += ["## Where it comes from", "", *[_line(step) for step in lineage], ""]
    if classes:
        text += ["## Classes", "", ", ".join(f"{i}: {name}" for i, name in enumerate(classes)), ""]
    return "\n".join([*text, f"Exported by lvit_jax, `lvit export_torch --to={to}`.", ""])


def _title(arch: Arch | HieraArch) -> str:
    if arch.pool:
        return f"classifier, {arch.classes} classes"
    return "masked autoencoder, with decoder" if arch.decoder else "pre-trained encoder"


def _facts(arch: Arch | HieraArch, data: Mapping[str, Any]) -> dict[str, Any]:
    facts = _pixels(arch, data) | (_hiera_facts(arch) if isinstance(arch, HieraArch) else _vit_facts(arch))
    facts["LayerNorm ε"] = arch.norm_eps
    if arch.decoder:
        size = arch.decoder
        facts["decoder"] = f"width {size['width']}, {size['depth']} blocks, {size['heads']} heads"
    return facts


def _pixels(arch: Arch | HieraArch, data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "input size": f"{arch.image_size[0]} × {arch.image_size[1]} pixels (height × width)",
        "channels": arch.channels,
        "mean": data["mean"],
        "std": data["std"],
        "evaluation transform": f"resize the shorter side to side / {data['crop']} (bicubic), centre crop",
    }


def _hiera_facts(arch: HieraArch) -> dict[str, Any]:
    widths = [arch.first_width * 2**stage for stage in range(len(arch.depths))]
    return {
        "patch embedding": f"kernel {arch.patch_kernel}, stride {arch.patch_stride}, padding {arch.patch_padding}",
        "stages": f"blocks {list(arch.depths)}, widths {widths}, heads from {arch.first_heads} to {arch.heads}",
        "query pooling": f"at the start of {arch.q_pool} stages",
        "mask units": f"{arch.mask_unit} × {arch.mask_unit} tokens",
        "pooling": "mean over the final tokens, then LayerNorm (`norm`)" if arch.pool else "none: fused stages, normed",
    }


def _vit_facts(arch: Arch) -> dict[str, Any]:
    pooling = {
        "mean": "mean over the patch tokens (CLS excluded), then LayerNorm (`fc_norm`)",
        "cls": "the CLS token after the final LayerNorm",
        None: "none: tokens after the final LayerNorm",
    }[arch.pool]
    return {
        "patch size": arch.patch_size,
        "width, depth": f"{arch.width}, {arch.depth} blocks",
        "attention heads": arch.heads,
        "pooling": pooling,
        "positions": POSITIONS[arch.positions],
    }


def _line(step: Mapping[str, Any]) -> str:
    known = {key: step[key] for key in ("objective", "data", "source") if step.get(key)}
    what = ", ".join(f"{key}: {value}" for key, value in known.items())
    details = f" ({what})" if what else ""
    return f"- {step['role']}: `{step['workdir']}`{details}; licence: {step['licence'] or 'not stated'}"
