"""Fine-tuning with a teacher's answers, as DeiT does (arXiv:2012.12877; recipes 5.4: finetuning_distill_exp.py)."""

import flax.linen as nn
import jax

from lvit_jax.errors import InputError, unknown
from lvit_jax.models.heads import distilled_classifier
from lvit_jax.models.initial import from_scratch
from lvit_jax.objectives.classify import check_targets
from lvit_jax.objectives.losses import accuracy, hard_distillation, soft_cross_entropy, soft_distillation
from lvit_jax.objectives.mixing import mix, soft_labels
from lvit_jax.types import Aux, Batch, Objective, TrainState, Tree, Variables

TARGETS = ("hard", "soft")
TOKENS = ("cls", "own")


def make_classify_distill(
    encoder: nn.Module,
    teacher: nn.Module | None,
    *,
    classes: int,
    target: str = "hard",
    alpha: float = 0.5,
    temperature: float = 1.0,
    pool: str = "mean",
    token: str = "cls",
    expand: int | None = None,
    head_std: float = 0.02,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    smoothing: float = 0.0,
    group: int = 128,
) -> Objective:
    """(1-α)·CE(main head, labels) + α·(distillation head against the teacher): params {encoder, head, dist_head}.

    Labels are mixed and smoothed; the teacher sees the mixed images. Predictions average both heads' logits.

    Args:
      encoder: a ViT with CLS; its final norm gives way to those of the heads.
      teacher: a classifier, images -> logits [B,C]; its weights are state.frozen["teacher"]. None where nothing but
        `predict` is asked for.
      classes: C.
      target: "hard" (cross-entropy against the teacher's largest logit) or "soft" (KL at the temperature).
      alpha: share of the distillation.
      temperature: τ of "soft".
      pool: "mean" over patches or "cls", for the main head.
      token: what the distillation head reads: "cls" plays the distillation token (MAE-Lite), or it has its "own".
      expand: width of a layer between encoder and heads (TinyMIM*: 1280); None for none.
      head_std, mixup, cutmix, smoothing, group: as in `make_classify`.

    Raises:
      InputError: an unknown target or token, a share outside [0, 1], a temperature that is not positive, a token of
        its own for another encoder than a plain ViT, and as `make_classify`.
    """
    _check(target, token, alpha, temperature)
    check_targets(smoothing, group)
    model = distilled_classifier(encoder, classes, pool, head_std, token == "own", expand)

    def init(rng: jax.Array, batch: Batch) -> Variables:
        student_rng, teacher_rng = jax.random.split(rng)
        params = model.init(student_rng, batch["image"][:1])["params"]
        params = {**params, "encoder": from_scratch(encoder, student_rng, params["encoder"])}
        # At random, for the shapes alone: `build.weights` fills it from a file.
        frozen = {"teacher": teacher.init(teacher_rng, batch["image"][:1])["params"]} if teacher else {}
        return Variables(params, frozen)

    def loss(params: Tree, state: TrainState, batch: Batch, rng: jax.Array):
        mix_rng, dropout_rng = jax.random.split(rng)
        labels = soft_labels(batch["label"], classes, smoothing)
        images, labels = mix(mix_rng, batch["image"], labels, mixup=mixup, cutmix=cutmix, group=group)
        main, dist = model.apply({"params": params}, images, True, rngs={"dropout": dropout_rng})
        answers = jax.lax.stop_gradient(teacher.apply({"params": state.frozen["teacher"]}, images))
        distill = (
            hard_distillation(dist, answers) if target == "hard" else soft_distillation(dist, answers, temperature)
        )
        supervised = soft_cross_entropy(main, labels)
        # Against the label of the image itself: an underestimate under mixup and cutmix.
        metrics = {"supervised": supervised, "distill": distill, "accuracy": accuracy(main + dist, batch["label"])}
        return (1 - alpha) * supervised + alpha * distill, Aux(metrics, state.extra)

    def predict(params: Tree, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        return {"logits": model.clone(averaged=True).apply({"params": params}, batch["image"])}

    return Objective(init, loss, predict)


def _check(target: str, token: str, alpha: float, temperature: float) -> None:
    if target not in TARGETS:
        raise unknown("target", target, TARGETS)
    if token not in TOKENS:
        raise unknown("token", token, TOKENS)
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha={alpha} is outside [0, 1]")
    if temperature <= 0:
        raise InputError(f"temperature={temperature} is not above 0")
