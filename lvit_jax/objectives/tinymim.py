"""TinyMIM (arXiv:2301.01296; recipes 4.6): a student learns the token relations of a masked autoencoder's teacher.

The default is the paper's: softmax(Q·Kᵀ/√K) and softmax(V·Vᵀ/√K) of a block of the teacher, by KL, to the student's
last block, which has as many heads as that block of the teacher. The other targets and inputs of its ablations are
options of the same objective.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from lvit_jax.errors import InputError, unknown
from lvit_jax.models.adapters import Projections
from lvit_jax.models.features import Features
from lvit_jax.models.heads import pool
from lvit_jax.models.layers import grid_of
from lvit_jax.models.mim import MaskedAutoencoder, masked_autoencoder, random_masking
from lvit_jax.models.vit import ViT
from lvit_jax.objectives.losses import kl_divergence, smooth_l1
from lvit_jax.objectives.mae import forward, init_params, make_predict, reconstruction_loss
from lvit_jax.objectives.targets import FEATURES, RELATIONS, feature_views, keep_tokens, relation_views, whiten
from lvit_jax.types import Aux, Batch, Objective, TrainState, Tree, Variables

# target -> the views that it can be taken of
TARGETS = {"relations": RELATIONS, "features": FEATURES, "cls": ("output",)}
BETA = 2.0  # of the smooth-L1 loss


def make_tinymim(
    encoder: ViT,
    teacher: ViT,
    *,
    target: str = "relations",
    views: Sequence[str] = ("qk", "vv"),
    softmax: bool = True,
    teacher_layer: int = 18,
    teacher_drop_path: float = 0.0,
    mask_ratio: float = 0.0,
    decoder: str | Mapping[str, int] | None = None,
    norm_pix: bool | None = None,
) -> Objective:
    """Distillation of one block of the teacher into the student's last: params {encoder} and what the options add.

    batch["image"] is [B,2,H,W,C] in training: the teacher's view and the student's; [B,H,W,C] in `predict`.

    Args:
      encoder: the student; for relations its `last_heads` are the heads of the teacher's block.
      teacher: its weights are state.frozen["teacher"]; `init` fills them at random, for their shapes only.
      target: "relations" (KL per query, mean over batch, heads and queries), "features" (smooth-L1 of β=2 between a
        linear projection of the student's and the teacher's, whitened by an LN without affine) or "cls" (KL between
        the softmaxes of the CLS tokens; the student's is projected, as the widths differ).
      views: for relations any two of q, k and v: ("qk", "vv"), or ("qq", "kk", "vv"); for features names of
        `targets.FEATURES`; ("output",) for cls. The losses of several are added.
      softmax: False compares relations before their softmax, by smooth-L1 (the paper does not say by what).
      teacher_layer: the teacher's block, counted from 1.
      teacher_drop_path: constant over all but the teacher's last block. The paper's best is 0.
      mask_ratio: share of the patches that the student does not see; 0 for the raw image. The teacher sees all of
        them, and its CLS and the patches that the student sees are compared, relations within these.
      decoder, norm_pix: as in `make_mae`: adds MAE's reconstruction loss; both or neither.

    Raises:
      InputError: an unknown target or view, a block the teacher lacks, heads that differ or do not fit, models on
        different patches, a mask ratio that leaves nothing; from `init` also: a batch without two views.
    """
    names = tuple(views)
    _check(encoder, teacher, target, names, teacher_layer)
    _check_input(mask_ratio, decoder, norm_pix)
    model = encoder.clone(final_norm=True)
    if decoder is not None:
        model = masked_autoencoder(encoder, decoder, mask_ratio)
    teacher = teacher.clone(final_norm=True, drop_path=teacher_drop_path, drop_path_shape="constant")
    projections = None if target == "relations" else Projections(teacher.width)
    student = _student(model, mask_ratio)

    def init(rng: jax.Array, batch: Batch) -> Variables:
        student_rng, teacher_rng, projection_rng = jax.random.split(rng, 3)
        _check_views(batch["image"].shape)
        images = batch["image"][:1, 0]
        _check_mask(mask_ratio, images, encoder.patch_size)
        params = _init_student(model, student_rng, images)
        if projections:
            blank = {name: jnp.zeros((1, encoder.width)) for name in names}
            params["adapters"] = projections.init(projection_rng, blank)["params"]
        return Variables(params, {"teacher": teacher.init(teacher_rng, images)["params"]})

    def loss(params: Tree, state: TrainState, batch: Batch, rng: jax.Array):
        student_rng, teacher_rng = jax.random.split(rng)
        features, keep, out = student(params, batch["image"][:, 1], student_rng)
        weights = {"params": state.frozen["teacher"]}
        seen = teacher.apply(weights, batch["image"][:, 0], train=True, rngs={"dropout": teacher_rng})
        ours = _views(target, names, features, encoder.depth)
        if projections:
            ours = projections.apply({"params": params["adapters"]}, ours)
        theirs = jax.lax.stop_gradient(_views(target, names, seen, teacher_layer, keep))
        metrics = {name: _distance(ours[name], theirs[name], target, softmax) for name in names}
        if out is not None:
            metrics["reconstruction"] = reconstruction_loss(model, out, batch["image"][:, 1], norm_pix)
        return sum(metrics.values()), Aux(metrics, state.extra)

    def predict(params: Tree, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        return {"features": pool(model.apply({"params": params["encoder"]}, batch["image"]), "mean")}

    return Objective(init, loss, predict if decoder is None else make_predict(model, norm_pix))


def _views(target: str, names: tuple[str, ...], features: Features, layer: int, keep: jax.Array | None = None) -> dict:
    """What is compared of a layer (from 1), by name; of the teacher, which sees all patches, those in `keep`."""
    if target == "relations":
        return relation_views(keep_tokens(features.blocks[layer - 1], keep), names)
    return feature_views(features, layer, names, keep)


def _distance(ours: jax.Array, theirs: jax.Array, target: str, softmax: bool) -> jax.Array:
    """The loss of one view: relations [B,W,H,M,N], features [B,N,D] or all tokens of which CLS counts -> scalar."""
    if target == "cls":
        return kl_divergence(ours[:, 0], theirs[:, 0])
    if target == "features":
        return smooth_l1(ours, whiten(theirs), BETA)
    return kl_divergence(ours, theirs) if softmax else smooth_l1(ours, theirs, BETA)


def _student(model: ViT | MaskedAutoencoder, mask_ratio: float) -> Callable[..., tuple]:
    """(params, images [B,H,W,C], rng) -> Features, the patches seen (None for all) and the MimOut of a decoder."""

    def reconstructing(params, images, rng):
        weights = {name: params[name] for name in ("encoder", "decoder")}
        out = forward(model, weights, images, rng)
        return out.features, out.keep, out

    def encoding(params, images, rng) -> tuple[Features, jax.Array | None, None]:
        noise_rng, dropout_rng = jax.random.split(rng)
        keep = None
        if mask_ratio:
            rows, columns = grid_of(images, model.patch_size)
            noise = jax.random.uniform(noise_rng, (len(images), rows * columns))
            keep = random_masking(noise, mask_ratio)[0]
        weights = {"params": params["encoder"]}
        return model.apply(weights, images, keep, train=True, rngs={"dropout": dropout_rng}), keep, None

    return reconstructing if isinstance(model, MaskedAutoencoder) else encoding


def _init_student(model: ViT | MaskedAutoencoder, rng: jax.Array, images: jax.Array) -> Tree:
    if isinstance(model, MaskedAutoencoder):
        return init_params(model, rng, {"image": images})
    return {"encoder": model.init(rng, images)["params"]}


def _check_input(mask_ratio: float, decoder: str | Mapping[str, int] | None, norm_pix: bool | None) -> None:
    if not 0 <= mask_ratio < 1:
        raise InputError(f"mask_ratio={mask_ratio} is outside [0, 1)")
    if (decoder is None) != (norm_pix is None):
        raise InputError("decoder and norm_pix belong together: reconstruction takes both, its absence neither")


def _check(student: ViT, teacher: ViT, target: str, names: tuple[str, ...], layer: int) -> None:
    if target not in TARGETS:
        raise unknown("target of tinymim", target, TARGETS)
    if not names:
        raise InputError(f"tinymim needs at least one view; valid for {target}: {', '.join(TARGETS[target])}")
    for name in names:
        if name not in TARGETS[target]:
            raise unknown(f"view of {target}", name, TARGETS[target])
    for who, model in {"student": student, "teacher": teacher}.items():
        if not isinstance(model, ViT):
            raise InputError(f"tinymim distils plain ViTs; the {who} is a {type(model).__name__}")
    if not 1 <= layer <= teacher.depth:
        near = min(max(layer, 1), teacher.depth)
        raise InputError(f"no teacher block {layer}: it has blocks 1 to {teacher.depth}; nearest: {near}")
    if "output" in names and layer != teacher.depth:
        raise InputError(
            f"view 'output' is what the teacher returns, not its block {layer}: "
            f"set --config.objective.teacher_layer={teacher.depth}, or compare 'block'"
        )
    for name in ("patch_size", "channels"):
        ours, theirs = getattr(student, name), getattr(teacher, name)
        if ours != theirs:
            raise InputError(f"{name} of student ({ours}) and teacher ({theirs}) differ")
    if target == "relations":
        _check_heads(student, teacher.heads_of(layer), layer)


def _check_heads(student: ViT, wanted: int, layer: int) -> None:
    """Relations are compared head by head."""
    last = student.heads_of(student.depth)
    if last == wanted:
        return
    if student.width % wanted:
        common = math.lcm(4, student.heads, wanted)  # 4: the sines and cosines of the positions
        near = max(1, round(student.width / common)) * common
        raise InputError(
            f"block {layer} of the teacher has {wanted} heads, which do not divide the student's width "
            f"{student.width}; nearest width: {near}"
        )
    raise InputError(
        f"block {layer} of the teacher has {wanted} heads and the student's last block {last}; "
        f"set --config.model.last_heads={wanted}"
    )


def _check_views(shape: tuple[int, ...]) -> None:
    if len(shape) != 5 or shape[1] != 2:
        views = shape[1] if len(shape) == 5 else 1
        raise InputError(f"tinymim takes 2 views of an image, the data give {views}; set --config.data.recipe=tinymim")


def _check_mask(ratio: float, images: jax.Array, patch_size: int) -> None:
    rows, columns = grid_of(images, patch_size)
    patches = rows * columns
    if int(patches * (1 - ratio)) < 1:
        most = int(1000 * (1 - 1 / patches)) / 1000
        raise InputError(f"mask_ratio={ratio} leaves none of the {patches} patches; at most {most} leaves one")
