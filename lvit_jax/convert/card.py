"""The model card (README.md) of an exported folder, with the snippet that loads it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lvit_jax.convert.arch import Arch
from lvit_jax.convert.hiera import HieraArch
from lvit_jax.convert.record import AnyArch
from lvit_jax.convert.relative import RelativeArch
from lvit_jax.convert.swin import SwinArch

POSITIONS = {
    "sincos": "fixed sin-cos",
    "sincos_moco": "fixed sin-cos, row first (MoCo-v3)",
    "learned": "learned",
    "none": "none",
}

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
print(model(images).{outputs}.shape)
"""
_SAFE = """from safetensors.numpy import load_file

weights = load_file("{folder}/{stem}.safetensors")  # names and shapes of {reference}
print(len(weights), sum(array.size for array in weights.values()))
"""
_PICKLE = """import torch

weights = torch.load("{folder}/{stem}.pth", weights_only=True)["{key}"]  # for load_state_dict of {reference}
print(len(weights), sum(tensor.numel() for tensor in weights.values()))
"""


class _Kind(NamedTuple):
    title: str
    stem: str  # of the file of --to=mae
    reference: str  # whose layout that file has
    key: str
    hf: tuple[str, str]  # transformers' class without and with a classifier


_KINDS = {
    Arch: _Kind("ViT", "mae", "facebookresearch/mae", "model", ("ViTMAEForPreTraining", "ViTForImageClassification")),
    HieraArch: _Kind(
        "Hiera",
        "hiera",
        "facebookresearch/hiera",
        "model_state",
        ("HieraForPreTraining", "HieraForImageClassification"),
    ),
    SwinArch: _Kind(
        "Swin", "swin", "microsoft/Swin-Transformer and SimMIM", "model", ("SwinModel", "SwinForImageClassification")
    ),
    RelativeArch: _Kind("ViT with relative positions", "rpe", "MAE-Lite's models_vit_rpe.py", "model", ("", "")),
}


def snippet(to: str, arch: AnyArch, folder: str, pickled: bool) -> str:
    """Python that loads the export from `folder` and prints something of it."""
    about, (h, w) = _KINDS[type(arch)], arch.image_size
    kind = about.hf[bool(arch.pool)]
    names = {"stem": about.stem, "reference": about.reference, "key": about.key}
    names |= {"kind": kind, "outputs": "last_hidden_state" if kind == "SwinModel" else "logits"}
    template = {"timm": _TIMM, "hf": _HF, "mae": _PICKLE if pickled else _SAFE}[to]
    return template.format(folder=folder, c=arch.channels, h=h, w=w, **names)


def card(
    to: str,
    arch: AnyArch,
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
        f"# {_KINDS[type(arch)].title} ({_title(arch)})",
        "",
        *[f"**{note}**\n" for note in notes],
    ]
    text += ["| | |", "|---|---|", *rows, "", "## Load it", "", "```python", code.rstrip(), "```", ""]
    text += ["## Where it comes from", "", *[_line(step) for step in lineage], ""]
    if classes:
        text += ["## Classes", "", ", ".join(f"{i}: {name}" for i, name in enumerate(classes)), ""]
    return "\n".join([*text, f"Exported by lvit_jax, `lvit export_torch --to={to}`.", ""])


def _title(arch: AnyArch) -> str:
    if arch.pool:
        return f"classifier, {arch.classes} classes"
    if arch.decoder and isinstance(arch, SwinArch):
        return "SimMIM, with its head"
    return "masked autoencoder, with decoder" if arch.decoder else "pre-trained encoder"


def _facts(arch: AnyArch, data: Mapping[str, Any]) -> dict[str, Any]:
    own = {Arch: _vit_facts, HieraArch: _hiera_facts, SwinArch: _swin_facts, RelativeArch: _relative_facts}
    facts = _pixels(arch, data) | own[type(arch)](arch)
    facts["LayerNorm ε"] = arch.norm_eps
    if isinstance(arch.decoder, Mapping) and "depth" in arch.decoder:
        size = arch.decoder
        facts["decoder"] = f"width {size['width']}, {size['depth']} blocks, {size['heads']} heads"
    return facts


def _pixels(arch: AnyArch, data: Mapping[str, Any]) -> dict[str, Any]:
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


def _swin_facts(arch: SwinArch) -> dict[str, Any]:
    widths = [arch.width * 2**stage for stage in range(len(arch.depths))]
    tokens = (
        f"none: tokens after the {'final LayerNorm' if arch.final_norm else 'last block, for there is no final norm'}"
    )
    heads = {None: {}, "linear": {"head of SimMIM": "a 1 × 1 convolution to pixels"}}
    facts = {
        "patch size": arch.patch_size,
        "stages": f"blocks {list(arch.depths)}, widths {widths}, heads {list(arch.heads)}",
        "windows": f"{arch.window} × {arch.window} tokens, shifted by {arch.window // 2} in every other block",
        "pooling": "mean over the tokens after the final LayerNorm" if arch.pool else tokens,
    }
    if isinstance(arch.decoder, Mapping):
        return facts | {"head of SimMIM": f"a block of width {arch.decoder['width']}, {arch.decoder['heads']} heads"}
    return facts | heads[arch.decoder]


def _relative_facts(arch: RelativeArch) -> dict[str, Any]:
    biases = "of queries and values" if arch.qv_bias else "of queries, keys and values"
    return _vit_facts(arch) | {
        "relative positions": "one table for all blocks" if arch.shared_table else "a table per block",
        "biases": biases,
        "LayerScale": "none" if arch.layer_scale is None else "in every block",
    }


def _vit_facts(arch: Arch | RelativeArch) -> dict[str, Any]:
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
