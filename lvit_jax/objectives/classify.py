"""Image classification: fine-tuning and training from scratch, with soft targets (DeiT, MAE-Lite)."""

import jax

from lvit_jax.errors import InputError
from lvit_jax.models.heads import classifier
from lvit_jax.models.vit import ViT
from lvit_jax.objectives.losses import accuracy, soft_cross_entropy
from lvit_jax.objectives.mixing import mix, soft_labels
from lvit_jax.tree import flatten, unflatten
from lvit_jax.types import Aux, Batch, Objective, TrainState, Tree, Variables


def make_classify(
    encoder: ViT,
    *,
    classes: int,
    pool: str = "mean",
    head_std: float = 0.02,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    smoothing: float = 0.0,
    group: int = 128,
) -> Objective:
    """Soft-target cross-entropy: params {encoder, head}.

    Args:
      encoder: any ViT; its final norm gives way to the head's.
      classes: C.
      pool: "mean" over patches with a fresh norm, or "cls".
      head_std: of the head's initial weights. MAE-Lite 0.02, MAE 2e-5.
      mixup, cutmix: α of λ ~ Beta(α, α), 0 = off.
      smoothing: share of the target spread over all classes.
      group: images that share one λ (MAE-Lite: the 128 of one GPU).

    Raises:
      InputError: an unknown pooling, a smoothing outside [0, 1), a group below 1.
    """
    if not 0 <= smoothing < 1:
        raise InputError(f"smoothing={smoothing} is outside [0, 1)")
    if group < 1:
        raise InputError(f"group={group}: at least one image shares a λ")
    model = classifier(encoder, classes, pool, head_std)

    def init(rng: jax.Array, batch: Batch) -> Variables:
        params = model.init(rng, batch["image"][:1])["params"]
        return Variables(params={**params, "encoder": redrawn(rng, params["encoder"])})

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


def redrawn(rng: jax.Array, encoder: Tree) -> Tree:
    """Every Linear of the blocks from N(0, 0.02), as timm and MAE-Lite's models_vit.py; pre-training draws Xavier."""
    leaves = flatten(encoder)
    linear = [name for name in leaves if name.startswith(("block_", "merge_")) and name.endswith("/kernel")]
    drawn = {
        name: 0.02 * jax.random.normal(key, leaves[name].shape)
        for name, key in zip(linear, jax.random.split(rng, len(linear)), strict=True)
    }
    return unflatten(leaves | drawn)
