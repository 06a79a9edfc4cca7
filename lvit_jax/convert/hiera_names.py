"""The names of a Hiera's parameters: ours, facebookresearch/hiera's and transformers'.

Layouts:
  hiera: facebookresearch/hiera (Hiera, MaskedAutoencoderHiera), files of {"model_state": tensors}.
  hf: transformers' HieraForImageClassification and HieraForPreTraining.
"""

import re
from collections.abc import Iterable, Sequence

from lvit_jax.convert.names import Row, rows_of

# (jax module, name in the layout 'hiera', name in 'hf', kind)
_BLOCK = (
    ("norm1", "norm1", "layernorm_before", "norm"),
    ("attn/qkv", "attn.qkv", "attn.qkv", "dense"),
    ("attn/proj", "attn.proj", "attn.proj", "dense"),
    ("norm2", "norm2", "layernorm_after", "norm"),
    ("mlp/fc1", "mlp.fc1", "mlp.fc1", "dense"),
    ("mlp/fc2", "mlp.fc2", "mlp.fc2", "dense"),
    ("proj", "proj", "proj", "dense"),
)
_OUTER = (
    ("encoder/patch_embed", "patch_embed.proj", "hiera.embeddings.patch_embeddings.projection", "conv"),
    ("encoder/pos_embed", "pos_embed", "hiera.embeddings.position_embeddings", "leaf"),
    ("encoder/norm", "encoder_norm", "encoder_norm", "norm"),
    ("decoder/embed", "decoder_embed", "decoder.decoder_embeddings", "dense"),
    ("decoder/mask_token", "mask_token", "decoder.mask_token", "leaf"),
    ("decoder/pos_embed", "decoder_pos_embed", "decoder.decoder_position_embeddings", "leaf"),
    ("decoder/norm", "decoder_norm", "decoder.decoder_norm", "norm"),
    ("decoder/head", "decoder_pred", "decoder.decoder_pred", "dense"),
    ("head/norm", "norm", "hiera.pooler.layernorm", "norm"),
    ("head/fc", "head.projection", "classifier", "dense"),
)
CHANGE = r"blocks\.(\d+)\.proj\.weight"  # only blocks of a Hiera project their residual: the first of a stage
_PREFIXES = ("module.model.", "module.", "model.", "")


def find(names: Iterable[str]) -> tuple[str | None, dict[str, str]]:
    """Which layout of Hiera a file has, or None, and {name in the file: name in the table}."""
    names = list(names)
    if "hiera.embeddings.patch_embeddings.projection.weight" in names:
        return "hf", {name: name for name in names}
    for prefix in _PREFIXES:
        own = {name: name[len(prefix) :] for name in names if name.startswith(prefix)}
        if "patch_embed.proj.weight" in own.values() and any(re.fullmatch(CHANGE, name) for name in own.values()):
            return "hiera", own
    return None, {}


def outer(jax_name: str, layout: str) -> str:
    """The torch name of a module outside the blocks."""
    return next(row[1 + (layout == "hf")] for row in _OUTER if row[0] == jax_name)


def rows(layout: str, depths: Sequence[int], decoder_depth: int, fusions: int) -> list[Row]:
    """The table of one model, one row per jax leaf that it can have.

    Args:
      layout: 'hiera' or 'hf'.
      depths: blocks per stage.
      decoder_depth: blocks of the decoder; 0 for none.
      fusions: earlier stages that the decoder reads.
    """
    hf = layout == "hf"
    named = [(jax_name, (own, theirs)[hf], kind) for jax_name, own, theirs, kind in _OUTER]
    stages = [(stage, j) for stage, depth in enumerate(depths) for j in range(depth)]
    for i, (stage, j) in enumerate(stages):
        named += _block(f"encoder/block_{i}", f"hiera.encoder.stages.{stage}.layers.{j}" if hf else f"blocks.{i}", hf)
    for i in range(decoder_depth):
        named += _block(f"decoder/block_{i}", f"decoder.decoder_block.layers.{i}" if hf else f"decoder_blocks.{i}", hf)
    made = [row for name in named for row in rows_of(*name)]
    for i in range(fusions):
        torch = f"{'multiscale_fusion.' if hf else ''}multi_scale_fusion_heads.{i}"
        made.append(Row(f"encoder/fusion/kernel_{i}", (f"{torch}.weight",), "conv"))
        made.append(Row(f"encoder/fusion/bias_{i}", (f"{torch}.bias",), "same"))
    return made


def _block(jax_name: str, torch: str, hf: bool) -> list[tuple[str, str, str]]:
    return [(f"{jax_name}/{part}", f"{torch}.{(own, theirs)[hf]}", kind) for part, own, theirs, kind in _BLOCK]
