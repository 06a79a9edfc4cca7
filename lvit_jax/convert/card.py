"""The model card (README.md) of an exported folder, with the snippet that loads it."""

from collections.abc import Mapping, Sequence
from typing import Any

from lvit_jax.convert.arch import Arch

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


def snippet(to: str, arch: Arch, folder: str, pickled: bool) -> str:
    """Python that loads the export from `folder` and prints something of it."""
    template = {"timm": _TIMM, "hf": _HF, "mae": _PICKLE if pickled else _SAFE}[to]
    kind = "ViTForImageClassification" if arch.pool else "ViTMAEForPreTraining"
    h, w = arch.image_size
    return template.format(folder=folder, kind=kind, c=arch.channels, h=h, w=w)


def card(
    to: str,
    arch: Arch,
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
    text = [*head, f"# ViT ({_title(arch)})", "", *[f"**{note}**\n" for note in notes]]
    text += ["| | |", "|---|---|", *rows, "", "## Load it", "", "```python", code.rstrip(), "```", ""]
    text += ["## Where it comes from", "", *[_line(step) for step in lineage], ""]
    if classes:
        text += ["## Classes", "", ", ".join(f"{i}: {name}" for i, name in enumerate(classes)), ""]
    return "\n".join([*text, f"Exported by lvit_jax, `lvit export_torch --to={to}`.", ""])


def _title(arch: Arch) -> str:
    if arch.pool:
        return f"classifier, {arch.classes} classes"
    return "masked autoencoder, with decoder" if arch.decoder else "pre-trained encoder"


def _facts(arch: Arch, data: Mapping[str, Any]) -> dict[str, Any]:
    pooling = {
        "mean": "mean over the patch tokens (CLS excluded), then LayerNorm (`fc_norm`)",
        "cls": "the CLS token after the final LayerNorm",
        None: "none: tokens after the final LayerNorm",
    }[arch.pool]
    facts = {
        "input size": f"{arch.image_size[0]} × {arch.image_size[1]} pixels (height × width)",
        "channels": arch.channels,
        "mean": data["mean"],
        "std": data["std"],
        "evaluation transform": f"resize the shorter side to side / {data['crop']} (bicubic), centre crop",
        "patch size": arch.patch_size,
        "width, depth": f"{arch.width}, {arch.depth} blocks",
        "attention heads": arch.heads,
        "pooling": pooling,
        "positions": POSITIONS[arch.positions],
        "LayerNorm ε": arch.norm_eps,
    }
    if arch.decoder:
        size = arch.decoder
        facts["decoder"] = f"width {size['width']}, {size['depth']} blocks, {size['heads']} heads"
    return facts


def _line(step: Mapping[str, Any]) -> str:
    known = {key: step[key] for key in ("objective", "data", "source") if step.get(key)}
    what = ", ".join(f"{key}: {value}" for key, value in known.items())
    details = f" ({what})" if what else ""
    return f"- {step['role']}: `{step['workdir']}`{details}; licence: {step['licence'] or 'not stated'}"
