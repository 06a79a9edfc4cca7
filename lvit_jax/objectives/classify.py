"""Image classification: fine-tuning and training from scratch, with soft targets (DeiT, MAE-Lite)."""

import flax.linen as nn
import jax

from lvit_jax.errors import InputError
from lvit_jax.models.heads import classifier
from lvit_jax.models.initial import from_scratch
from lvit_jax.objectives.losses import accuracy, soft_cross_entropy
from lvit_jax.objectives.mixing import mix, soft_labels
from lvit_jax.types import Aux, Batch, Objective, TrainState, Tree, Variables


def make_classify(
    encoder: nn.Module,
    *,
    classes: int,
    pool: str = "mean",
    head_std: float = 0.02,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    smoothing: float = 0.0,
    group: int = 128,
    head_norm: bool = True,
) -> Objective:
    """Soft-target cross-entropy: params {encoder, head}.

    Args:
      encoder: of any kind; its final norm gives way to the head's.
      classes: C.
      pool: "mean" over patches with a fresh norm after it, "norm_mean" with the norm before it (Swin), or "cls".
      head_std: of the head's initial weights. MAE-Lite 0.02; MAE, and Hiera (0.02·0.001), 2e-5.
      mixup, cutmix: α of λ ~ Beta(α, α), 0 = off.
      smoothing: share of the target spread over all classes.
      group: images that share one λ (MAE-Lite: the 128 of one GPU).
      head_norm: a norm before the last Linear; imported convolutional classifiers have none.

    Raises:
      InputError: an unknown pooling, a smoothing outside [0, 1), a group below 1.
    """
    check_targets(smoothing, group)
    model = classifier(encoder, classes, pool, head_std, head_norm)

    def init(rng: jax.Array, batch: Batch) -> Variables:
        params = model.init(rng, batch["image"][:1])["params"]
        return Variables(params={**params, "encoder": from_scratch(encoder, rng, params["encoder"])})

    def loss(params: Tree, state: TrainState, batch: Batch, rng: jax.Array):
        mix_rng, dropout_rng = jax.random.split(rng)
        targets = soft_labels(batch["label"], classes, smoothing)
        images, targets = mix(mix_rng, batch["image"], targets, mixup=mixup, cutmix=cutmix, group=group)
        logits = model.apply({"params": params}, images, True, rngs={"dropout": dropout_rng})
        # Against the label of the image itself: an underestimate under mixup and cutmix.
        return soft_cross_entropy(logits, targets), Aux({"accuracy": accuracy(logits, batch["label"])}, state.extra)

    def predict(params: Tree, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        return {"logits": model.apply({"params": params}, batch["image"])}

    return Objective(init, loss, predict)


def check_targets(smoothing: float, group: int) -> None:
    """Raises: InputError, for a smoothing outside [0, 1) or a group below 1."""
    if not 0 <= smoothing < 1:
        raise InputError(f"smoothing={smoothing} is outside [0, 1)")
    if group < 1:
        raise InputError(f"group={group}: at least one image shares a λ")
