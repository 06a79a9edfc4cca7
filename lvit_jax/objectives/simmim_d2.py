"""Decoupled distillation for SimMIM on Swin (recipes 4.5): pixels from an inner stage, attention from the end."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from lvit_jax.errors import InputError
from lvit_jax.models.adapters import Adapters
from lvit_jax.models.features import attention_logits
from lvit_jax.models.swin import Swin, last_stage_probe
from lvit_jax.objectives.losses import mse
from lvit_jax.objectives.simmim import (
    SimMIM,
    forward,
    head_sizes,
    init_params,
    make_masking,
    make_predict,
    reconstruction_loss,
)
from lvit_jax.types import Aux, Batch, Objective, TrainState, Tree, Variables


def make_simmim_d2(
    encoder: Swin,
    teacher: Swin,
    *,
    head: str | Mapping[str, int] = "block",
    mask_ratio: float = 0.6,
    mask_unit: int = 32,
    norm_pix: bool = False,
    decode_stage: int = 2,
    teacher_layer: int = 12,
    alpha: float = 1.0,
) -> Objective:
    """SimMIM from an inner stage + α·MSE of attention logits: params {encoder, decoder, adapters}.

    The logits are those of an extra, partial block after the student's last (params["adapters"]["probe"]), with its
    relative-position bias and before any window mask, mixed to the teacher's heads; the teacher sees the same mask.
    Nothing is detached: the first stages get both gradients, the later ones only distillation.

    Args:
      encoder: the student, without final norm.
      teacher: its weights are state.frozen["teacher"]; `init` fills them at random, for their shapes only.
      head, mask_ratio, mask_unit, norm_pix: as in `make_simmim`; a block head starts with a LayerNorm.
      decode_stage: the stage (from 1) whose output, after its patch merging, is decoded.
      teacher_layer: a block of the teacher's last stage, counted from 1 through all stages.
      alpha: weight of the distillation.

    Raises:
      InputError: as `make_simmim`; models that are no Swin or whose windows differ; a stage without merging after it;
        a layer that is not of the teacher's last stage.
    """
    _check(encoder, teacher, decode_stage, teacher_layer)
    masking = make_masking(encoder, mask_ratio, mask_unit)
    model = SimMIM(encoder.clone(final_norm=False), head_sizes(head), decode_stage)
    teacher = teacher.clone(final_norm=True)
    # Shifted like the teacher's block, so that windows hold the same tokens (at 7x7 tokens, no block is shifted).
    place = teacher_layer - 1 - sum(teacher.depths[:-1])
    probe = last_stage_probe(encoder, place % 2 * (encoder.window // 2))
    adapters = Adapters(teacher.heads[-1], axis=2)

    def init(rng: jax.Array, batch: Batch) -> Variables:
        student_rng, teacher_rng, adapter_rng, probe_rng = jax.random.split(rng, 4)
        params, images = init_params(model, masking, student_rng, batch), batch["image"][:1]
        mask = masking(rng, images).patches
        seen = jax.eval_shape(lambda p: model.apply({"params": p}, images, mask), params).features
        stream = jnp.zeros(seen.tokens.shape)
        mixing = adapters.init(adapter_rng, [jnp.zeros((1, 1, encoder.heads[-1], 1, 1))])["params"]
        params["adapters"] = {**mixing, "probe": probe.init(probe_rng, stream, seen.grid, False)["params"]}
        return Variables(params, {"teacher": teacher.init(teacher_rng, images, mask=mask)["params"]})

    def loss(params: Tree, state: TrainState, batch: Batch, rng: jax.Array):
        out, masked = forward(model, masking, params, batch["image"], rng)
        reconstruction = reconstruction_loss(out, batch["image"], masked.pixels, norm_pix)
        features, own = out.features, params["adapters"]
        extra = probe.apply({"params": own["probe"]}, features.blocks[-1].x, features.grid, False)
        (ours,) = adapters.apply({"params": own}, [attention_logits(extra)])
        seen = teacher.apply({"params": state.frozen["teacher"]}, batch["image"], mask=masked.patches)
        theirs = jax.lax.stop_gradient(attention_logits(seen.blocks[teacher_layer - 1]))
        distill = mse(ours, theirs)
        metrics = {"reconstruction": reconstruction, "distill": distill}
        return reconstruction + alpha * distill, Aux(metrics, state.extra)

    return Objective(init, loss, make_predict(model, masking, norm_pix))


def _check(student: Swin, teacher: Swin, decode_stage: int, teacher_layer: int) -> None:
    for who, model in {"student": student, "teacher": teacher}.items():
        if not isinstance(model, Swin):
            raise InputError(f"simmim_d2 takes Swin models, and the {who} is a {type(model).__name__}; for ViTs: d2")
    for name in ("patch_size", "channels", "window"):
        if getattr(student, name) != getattr(teacher, name):
            both = f"{getattr(student, name)} and {getattr(teacher, name)}"
            raise InputError(f"{name} of student and teacher differ: {both}")
    if len(student.depths) != len(teacher.depths):
        raise InputError(f"the student has {len(student.depths)} stages, the teacher {len(teacher.depths)}")
    if not 1 <= decode_stage < len(student.depths):
        most = len(student.depths) - 1
        raise InputError(f"decode_stage={decode_stage}: stages 1 to {most} hand on through a merging; nearest: {most}")
    first = sum(teacher.depths[:-1]) + 1
    if not first <= teacher_layer <= teacher.depth:
        near = min(max(teacher_layer, first), teacher.depth)
        raise InputError(
            f"teacher_layer={teacher_layer}: the teacher's last stage has layers {first} to {teacher.depth}; "
            f"nearest: {near}"
        )
