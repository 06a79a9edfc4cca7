"""The one table: jax parameter <-> torch tensor(s), for each layout, and the array move between them.

Layouts:
  mae: facebookresearch/mae and MAE-Lite; timm's vision_transformer uses the same names (it has no decoder).
  hf: transformers' ViTMAE and ViT, in the spelling of version 4 files, which every version reads.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Row(NamedTuple):
    """One jax leaf: the torch tensor(s) that hold it (three where q, k and v stand apart) and the move."""

    jax: str  # 'encoder/block_0/attn/qkv/kernel'
    torch: tuple[str, ...]  # ('blocks.0.attn.qkv.weight',)
    move: str  # same | dense | conv


# (jax module, torch module, kind); {i} is the block. Order is the order of the exported file.
_BLOCK = {
    "mae": (
        ("norm1", "norm1", "norm"),
        ("attn/qkv", "attn.qkv", "dense"),
        ("attn/proj", "attn.proj", "dense"),
        ("norm2", "norm2", "norm"),
        ("mlp/fc1", "mlp.fc1", "dense"),
        ("mlp/fc2", "mlp.fc2", "dense"),
    ),
    "hf": (
        ("norm1", "layernorm_before", "norm"),
        ("attn/qkv", ("attention.attention.query", "attention.attention.key", "attention.attention.value"), "dense"),
        ("attn/proj", "attention.output.dense", "dense"),
        ("norm2", "layernorm_after", "norm"),
        ("mlp/fc1", "intermediate.dense", "dense"),
        ("mlp/fc2", "output.dense", "dense"),
    ),
}
_OUTER = {
    "mae": (
        ("encoder/cls_token", "cls_token", "leaf"),
        ("encoder/pos_embed", "pos_embed", "leaf"),
        ("encoder/patch_embed", "patch_embed.proj", "conv"),
        ("encoder/block_{i}", "blocks.{i}", "block"),
        ("encoder/norm", "norm", "norm"),
        ("decoder/mask_token", "mask_token", "leaf"),
        ("decoder/pos_embed", "decoder_pos_embed", "leaf"),
        ("decoder/embed", "decoder_embed", "dense"),
        ("decoder/block_{i}", "decoder_blocks.{i}", "block"),
        ("decoder/norm", "decoder_norm", "norm"),
        ("decoder/head", "decoder_pred", "dense"),
        ("head/norm", "{head_norm}", "norm"),
        ("head/fc", "head", "dense"),
    ),
    "hf": (
        ("encoder/cls_token", "vit.embeddings.cls_token", "leaf"),
        ("encoder/pos_embed", "vit.embeddings.position_embeddings", "leaf"),
        ("encoder/patch_embed", "vit.embeddings.patch_embeddings.projection", "conv"),
        ("encoder/block_{i}", "vit.encoder.layer.{i}", "block"),
        ("encoder/norm", "vit.layernorm", "norm"),
        ("decoder/mask_token", "decoder.mask_token", "leaf"),
        ("decoder/pos_embed", "decoder.decoder_pos_embed", "leaf"),
        ("decoder/embed", "decoder.decoder_embed", "dense"),
        ("decoder/block_{i}", "decoder.decoder_layers.{i}", "block"),
        ("decoder/norm", "decoder.decoder_norm", "norm"),
        ("decoder/head", "decoder.decoder_pred", "dense"),
        ("head/norm", "vit.layernorm", "norm"),
        ("head/fc", "classifier", "dense"),
    ),
}
_LEAVES = {  # kind -> (jax leaf, torch leaf, move)
    "norm": (("scale", "weight", "same"), ("bias", "bias", "same")),
    "dense": (("kernel", "weight", "dense"), ("bias", "bias", "same")),
    "conv": (("kernel", "weight", "conv"), ("bias", "bias", "same")),
}

# What other writers call the names of the tables above; applied in order.
_SPELLINGS = (
    (r"^(embeddings|encoder|layers|layernorm)\.", r"vit.\1."),  # a bare ViTMAEModel / ViTModel
    (r"^vit\.layers\.", "vit.encoder.layer."),  # transformers 5 in memory …
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"^decoder\.decoder_encoder\.layer\.", "decoder.decoder_layers."),  # … and what it writes
)
# 'module.model.' is MAE-Lite's, 'module.' DistributedDataParallel's; the first that fits is taken.
_PREFIXES = ("module.model.", "module.", "model.", "")


def rows(layout: str, *, depth: int, decoder_depth: int = 0, head: str | None = None) -> list[Row]:
    """The table of one model, one row per jax leaf it can have.

    Args:
      layout: 'mae' (also timm's names) or 'hf'.
      depth: blocks of the encoder.
      decoder_depth: blocks of the decoder; 0 for none.
      head: None, 'mean' (`fc_norm` and head) or 'cls' (the final norm is the head's own).
    """
    made = []
    for jax, torch, kind in _OUTER[layout]:
        part = jax.split("/")[0]
        if (part == "decoder" and not decoder_depth) or (part == "head" and not head):
            continue
        if jax == "encoder/norm" and head:
            continue  # a classifier's only norm is the one of its head
        torch = torch.replace("{head_norm}", "fc_norm" if head == "mean" else "norm")
        if kind != "block":
            made += rows_of(jax, torch, kind)
            continue
        for i in range(depth if part == "encoder" else decoder_depth):
            for inner, names, inner_kind in _BLOCK[layout]:
                names = (names,) if isinstance(names, str) else names
                start = (jax.format(i=i), torch.format(i=i))
                made += rows_of(f"{start[0]}/{inner}", tuple(f"{start[1]}.{n}" for n in names), inner_kind)
    return made


def rows_of(jax: str, torch: str | tuple[str, ...], kind: str) -> list[Row]:
    """The rows of one module, or of a single leaf, of a kind; torch: several where q, k and v stand apart."""
    torch = (torch,) if isinstance(torch, str) else torch
    if kind == "leaf":
        return [Row(jax, torch, "same")]
    return [Row(f"{jax}/{a}", tuple(f"{name}.{b}" for name in torch), move) for a, b, move in _LEAVES[kind]]


def move_to_torch(array: np.ndarray, move: str) -> np.ndarray:
    """A jax array in torch's order of axes: HWIO -> OIHW for a convolution, transposed for a Linear."""
    axes = {"same": None, "dense": (1, 0), "conv": (3, 2, 0, 1)}[move]
    return np.ascontiguousarray(array if axes is None else array.transpose(axes))


def move_to_jax(array: np.ndarray, move: str) -> np.ndarray:
    """The inverse of `move_to_torch`."""
    axes = {"same": None, "dense": (1, 0), "conv": (2, 3, 1, 0)}[move]
    return np.ascontiguousarray(array if axes is None else array.transpose(axes))


def normalise(names: Iterable[str]) -> tuple[str | None, dict[str, str]]:
    """Which layout a file has, and its names as the tables spell them.

    Returns:
      (layout or None where it is neither, {name in the file: name in the table}); names outside the prefix of the
      model (a teacher stored beside the student, say) are left out.
    """
    names = list(names)
    respelt = {name: respell(name) for name in names}
    if "vit.embeddings.patch_embeddings.projection.weight" in respelt.values():
        return "hf", respelt
    for prefix in _PREFIXES:
        if f"{prefix}patch_embed.proj.weight" in names:
            return "mae", {name: name[len(prefix) :] for name in names if name.startswith(prefix)}
    return None, {}


def respell(name: str) -> str:
    """A transformers name in the spelling of version 4 files."""
    for pattern, replacement in _SPELLINGS:
        name = re.sub(pattern, replacement, name)
    return name
