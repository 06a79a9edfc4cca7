"""The names of a Swin's parameters: ours, the official ones, timm's and transformers'.

Layouts:
  swin: microsoft/Swin-Transformer and MAE-Lite; a patch merging closes its stage.
  simmim: microsoft/SimMIM and MAE-Lite's pre-training: the same under 'encoder.', beside the head of SimMIM.
  timm: timm's SwinTransformer; a patch merging opens the next stage.
  hf: transformers' SwinForImageClassification, SwinForMaskedImageModeling and SwinModel, in the spelling of version 4.
"""

import re
from collections.abc import Iterable, Sequence

from lvit_jax.convert.names import Row, rows_of

_HF_QKV = ("attention.self.query", "attention.self.key", "attention.self.value")
# (jax module, official name, name in 'hf', kind)
_BLOCK = (
    ("norm1", "norm1", "layernorm_before", "norm"),
    ("attn/qkv", "attn.qkv", _HF_QKV, "dense"),
    ("attn/proj", "attn.proj", "attention.output.dense", "dense"),
    ("attn/bias_table", "attn.relative_position_bias_table", "attention.self.relative_position_bias_table", "leaf"),
    ("norm2", "norm2", "layernorm_after", "norm"),
    ("mlp/fc1", "mlp.fc1", "intermediate.dense", "dense"),
    ("mlp/fc2", "mlp.fc2", "output.dense", "dense"),
)
_OUTER = (
    ("encoder/patch_embed", "patch_embed.proj", "swin.embeddings.patch_embeddings.projection", "conv"),
    ("encoder/patch_norm", "patch_embed.norm", "swin.embeddings.norm", "norm"),
    ("encoder/mask_token", "mask_token", "swin.embeddings.mask_token", "leaf"),
    ("encoder/norm", "norm", "swin.layernorm", "norm"),
    ("head/norm", "norm", "swin.layernorm", "norm"),
    ("head/fc", "head", "classifier", "dense"),
)
# The heads of SimMIM: one convolution, or MAE-Lite's Linear, block and convolution.
_SIMMIM = (
    ("decoder", "decoder.0", "conv"),
    ("decoder/embed", "decoder.0", "dense"),
    *((f"decoder/block_0/{ours}", f"decoder.1.{theirs}", kind) for ours, theirs, _, kind in _BLOCK),
    ("decoder/head", "decoder_pred.0", "conv"),
)

# The first that is there is taken. 'encoder.' is SimMIM's, 'module.' and 'module.model.' are training frameworks'.
_PREFIXES = tuple(
    f"{outer}{inner}" for inner in ("encoder.", "") for outer in ("module.model.", "module.", "model.", "")
)
_SPELLINGS = (
    (r"^(embeddings|encoder|layernorm)\.", r"swin.\1."),  # a bare SwinModel
    (r"\.attention\.q_proj\.", ".attention.self.query."),  # transformers 5
    (r"\.attention\.k_proj\.", ".attention.self.key."),
    (r"\.attention\.v_proj\.", ".attention.self.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.attention\.relative_position_bias\.", ".attention.self."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
BUFFERS = ("relative_position_index", "attn_mask")  # files may hold what the sizes imply


def find(names: Iterable[str]) -> tuple[str | None, dict[str, str]]:
    """Which layout of Swin a file has, or None, and {name in the file: name in the table}; buffers are left out."""
    names = [name for name in names if not name.endswith(BUFFERS)]
    if any(name.endswith("embeddings.patch_embeddings.projection.weight") for name in names):
        return "hf", {name: _respell(name) for name in names}
    prefix = next((p for p in _PREFIXES if f"{p}patch_embed.proj.weight" in names), None)
    if prefix is None:
        return None, {}
    own = {name: name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    if prefix.endswith("encoder."):
        outer = prefix.removesuffix("encoder.")
        heads = (prefix, f"{outer}decoder.", f"{outer}decoder_pred.")
        return "simmim", {name: name.removeprefix(outer) for name in names if name.startswith(heads)}
    merged = {name for name in own.values() if name.endswith("downsample.reduction.weight")}
    opening = bool(merged) and "layers.0.downsample.reduction.weight" not in merged
    return "timm" if opening or "head.fc.weight" in own.values() else "swin", own


def _respell(name: str) -> str:
    for pattern, replacement in _SPELLINGS:
        name = re.sub(pattern, replacement, name)
    return name


def rows(layout: str, depths: Sequence[int]) -> list[Row]:
    """The table of one model, one row per jax leaf that it can have.

    Args:
      layout: 'swin', 'simmim', 'timm' or 'hf'.
      depths: blocks per stage.
    """
    hf, before = layout == "hf", {"hf": "swin.encoder.", "simmim": "encoder."}.get(layout, "")
    modules = [(ours, theirs if hf else official, kind) for ours, official, theirs, kind in _OUTER]
    if layout == "simmim":
        modules = [(ours, f"encoder.{name}", kind) for ours, name, kind in modules if ours.startswith("encoder/")]
    if layout == "timm":
        modules = [(ours, "head.fc" if ours == "head/fc" else name, kind) for ours, name, kind in modules]
    made = []
    for stage, depth in enumerate(depths):
        first = sum(depths[:stage])
        for j in range(depth):
            modules += _block(f"encoder/block_{first + j}", f"{before}layers.{stage}.blocks.{j}", hf)
        if stage + 1 < len(depths):
            ours = f"encoder/merge_{first + depth - 1}"
            theirs = f"{before}layers.{stage + (layout == 'timm')}.downsample"
            modules.append((f"{ours}/norm", f"{theirs}.norm", "norm"))
            made.append(Row(f"{ours}/kernel", (f"{theirs}.reduction.weight",), "dense"))
    modules += [] if layout in ("swin", "timm") else _SIMMIM
    return [row for module in modules for row in rows_of(*module)] + made


def _block(jax_name: str, torch: str, hf: bool) -> list[tuple[str, str | tuple[str, ...], str]]:
    made = []
    for ours, official, theirs, kind in _BLOCK:
        names = theirs if hf else official
        names = (names,) if isinstance(names, str) else names
        made.append((f"{jax_name}/{ours}", tuple(f"{torch}.{name}" for name in names), kind))
    return made
