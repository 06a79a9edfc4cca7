"""Distillation during masked pre-training: D-MAE (MAE-Lite, arXiv:2205.14443) and D²-MAE (arXiv:2404.12210).

Teacher and student see the same visible patches in the same order, so that token i means the same in both.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from lvit_jax.errors import InputError, unknown
from lvit_jax.models.adapters import Adapters, qkv_probe
from lvit_jax.models.features import Features, attention_logits
from lvit_jax.models.hiera import Hiera
from lvit_jax.models.layers import Block
from lvit_jax.models.mim import MaskedAutoencoder, masked_autoencoder
from lvit_jax.models.vit import ViT
from lvit_jax.objectives.losses import mse
from lvit_jax.objectives.mae import forward, make_predict, reconstruction_loss
from lvit_jax.types import Aux, Batch, Objective, TrainState, Tree, Variables

TARGETS = ("logits", "probabilities", "hidden")


def make_distill(
    encoder: ViT | Hiera,
    teacher: ViT | Hiera,
    *,
    decoder: str | Mapping[str, int],
    mask_ratio: float = 0.75,
    norm_pix: bool = True,
    pairs: Sequence[tuple[int, int]] = ((12, 12),),
    target: str = "logits",
    alpha: float = 1.0,
    adapter: bool = True,
) -> Objective:
    """D-MAE: the MAE loss + α·Σ over pairs of MSE(adapter(student view), teacher view).

    Args:
      encoder: the student.
      teacher: its weights are state.frozen["teacher"]; `init` fills them at random, for their shapes only.
      decoder, mask_ratio, norm_pix: as in `make_mae`.
      pairs: (student layer, teacher layer), counted from 1. MAE-Lite: the last of each.
      target: "logits" (attention before the softmax, CLS included: what MAE-Lite's code does), "probabilities"
        (after it; the adapter mixes probabilities) or "hidden" (first norm of the next block, final norm after the
        last; the adapter projects widths).
      alpha: weight of the distillation terms.
      adapter: a trained bias-free map from the student's heads (or width) to the teacher's; without it they must be
        equal.

    Raises:
      InputError: layers that do not exist, an unknown target, models that cannot share a mask, unequal heads or
        widths without adapter; from `init`, layers of a hierarchy whose views differ in shape.
    """
    if not all(isinstance(pair, Sequence) and len(pair) == 2 for pair in pairs):
        raise InputError(f"pairs={pairs}: a list of pairs (student layer, teacher layer), such as ((12, 12),)")
    model = masked_autoencoder(encoder, decoder, mask_ratio)
    return _distillation(model, teacher, norm_pix, tuple(map(tuple, pairs)), target, alpha, adapter)


def make_d2(
    encoder: ViT,
    teacher: ViT,
    *,
    decoder: str | Mapping[str, int],
    mask_ratio: float = 0.75,
    norm_pix: bool = True,
    decode_from: int = 8,
    teacher_layer: int = 12,
    alpha: float = 1.0,
    target: str = "logits",
) -> Objective:
    """D²-MAE: reconstruction from LN(x₈); the attention of an extra, partial last block against the teacher's.

    The extra block is only norm1 and attn/qkv (params["adapters"]["probe"]). Nothing is detached: the first
    `decode_from` blocks get both gradients, the later ones only distillation, norm and decoder only reconstruction.

    Args: as `make_distill`; `decode_from` and `teacher_layer` count blocks from 1; `target` is "logits" or
      "probabilities" (the extra block has no hidden state).

    Raises:
      InputError: as `make_distill`.
    """
    if target not in TARGETS[:2]:
        raise unknown("target of d2", target, TARGETS[:2])
    model = masked_autoencoder(encoder, decoder, mask_ratio, decode_from)
    pairs = ((encoder.depth + 1, teacher_layer),)
    return _distillation(model, teacher, norm_pix, pairs, target, alpha, True, qkv_probe(encoder))


def _distillation(
    model: MaskedAutoencoder,
    teacher: ViT | Hiera,
    norm_pix: bool,
    pairs: tuple[tuple[int, int], ...],
    target: str,
    alpha: float,
    adapter: bool,
    probe: Block | None = None,
) -> Objective:
    """`probe`: one more, partial block after the encoder's last, whose layer number is depth + 1."""
    teacher = teacher.clone(final_norm=True)
    _check(model.encoder, teacher, pairs, target, adapter, probe is not None)
    hidden = target == "hidden"
    axis = -1 if hidden else 2
    adapters = Adapters(teacher.width if hidden else teacher.heads, axis=axis)

    def init(rng: jax.Array, batch: Batch) -> Variables:
        student_rng, teacher_rng, adapter_rng = jax.random.split(rng, 3)
        images = batch["image"][:1]
        out, params = model.init_with_output(student_rng, images, model.noise(student_rng, images))
        seen, frozen = teacher.init_with_output(teacher_rng, images, out.keep)
        params, features = params["params"], out.features
        if probe:
            extra, probed = probe.init_with_output(jax.random.fold_in(adapter_rng, 1), features.blocks[-1].x, False)
            features = features.replace(blocks=(*features.blocks, extra))
        ours = [view(features, student_layer, target) for student_layer, _ in pairs]
        theirs = [view(seen, teacher_layer, target) for _, teacher_layer in pairs]
        _check_views(pairs, ours, theirs, axis, adapters.features if adapter else None)
        if adapter:
            params["adapters"] = adapters.init(adapter_rng, ours)["params"]
        if probe:
            params["adapters"]["probe"] = probed["params"]
        return Variables(params, {"teacher": frozen["params"]})

    def loss(params: Tree, state: TrainState, batch: Batch, rng: jax.Array):
        out = forward(model, params, batch["image"], rng)
        reconstruction = reconstruction_loss(model, out, batch["image"], norm_pix)
        seen = teacher.apply({"params": state.frozen["teacher"]}, batch["image"], out.keep)
        features = out.features
        if probe:
            extra = probe.apply({"params": params["adapters"]["probe"]}, features.blocks[-1].x, False)
            features = features.replace(blocks=(*features.blocks, extra))
        ours = [view(features, student_layer, target) for student_layer, _ in pairs]
        ours = adapters.apply({"params": params["adapters"]}, ours) if adapter else ours
        theirs = [jax.lax.stop_gradient(view(seen, teacher_layer, target)) for _, teacher_layer in pairs]
        distill = sum(mse(a, b) for a, b in zip(ours, theirs, strict=True))
        metrics = {"reconstruction": reconstruction, "distill": distill}
        return reconstruction + alpha * distill, Aux(metrics, state.extra)

    return Objective(init, loss, make_predict(model, norm_pix))


def view(features: Features, layer: int, target: str) -> jax.Array:
    """What is compared at a layer (counted from 1): float32 [B,W,H,M,N] of attention, or [B,N,D] of hidden states."""
    if target == "hidden":
        x = features.blocks[layer].normed if layer < len(features.blocks) else features.tokens
        return x.astype(jnp.float32)
    logits = attention_logits(features.blocks[layer - 1])
    return logits if target == "logits" else jax.nn.softmax(logits, axis=-1)


def _check(
    student: ViT | Hiera,
    teacher: ViT | Hiera,
    pairs: tuple[tuple[int, int], ...],
    target: str,
    adapter: bool,
    probe: bool,
) -> None:
    if target not in TARGETS:
        raise unknown("target", target, TARGETS)
    if not pairs:
        raise InputError("distillation needs at least one pair (student layer, teacher layer)")
    for layers in pairs:
        depths = (student.depth + probe, teacher.depth)
        for who, depth, layer in zip(("student", "teacher"), depths, layers, strict=True):
            if not 1 <= layer <= depth:
                near = min(max(layer, 1), depth)
                raise InputError(f"no {who} layer {layer}: it has layers 1 to {depth}; nearest: {near}")
    for name in ("patch_size", "mask_size", "channels"):
        if getattr(student, name) != getattr(teacher, name):
            raise InputError(
                f"{name} of student ({getattr(student, name)}) and teacher ({getattr(teacher, name)}) differ"
            )
    name = "width" if target == "hidden" else "heads"
    if not adapter and getattr(student, name) != getattr(teacher, name):
        both = f"{getattr(student, name)} and {getattr(teacher, name)}"
        raise InputError(f"without adapter, student and teacher need equal {name}, not {both}")


def _check_views(
    pairs: tuple[tuple[int, int], ...],
    ours: Sequence[jax.Array],
    theirs: Sequence[jax.Array],
    axis: int,
    features: int | None,
) -> None:
    """Layers of a hierarchy have sizes of their own: what is compared must have one shape after its adapter."""
    for layers, a, b in zip(pairs, ours, theirs, strict=True):
        adapted = list(a.shape)
        adapted[axis] = features or adapted[axis]
        if tuple(adapted) != b.shape:
            what = "heads" if axis == 2 else "width"
            raise InputError(
                f"student layer {layers[0]} of shape {a.shape} and teacher layer {layers[1]} of {b.shape} cannot be "
                f"compared; an adapter changes {what} only, to those of the teacher's last layer"
            )
