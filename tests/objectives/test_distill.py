"""D-MAE and D²-MAE against a direct PyTorch computation; where gradients flow; that the teacher stays put."""

import jax
import numpy as np
import pytest
import torch
from common import DECODER, assert_grads_close, images, small, start, value_and_grad
from torch_reference import block, encode, gradients, mask_of, reconstruction, tensors

from lvit_jax.errors import InputError
from lvit_jax.objectives.distill import make_d2, make_distill
from lvit_jax.tree import flatten

RNG = jax.random.key(5)
BATCH = {"image": images()}
TEACHER = {"width": 48, "depth": 4, "heads": 3}  # other width, depth and heads than the student


def torch_view(out, layer, target):
    """MAE-Lite's definitions, layers counted from 1."""
    if target == "hidden":
        return out.normed[layer] if layer < len(out.normed) else out.tokens
    return out.logits[layer - 1] if target == "logits" else out.logits[layer - 1].softmax(-1)


def torch_losses(params, teacher, pairs, target, decode_from=None, teacher_heads=3):
    """-> (reconstruction, distillation, weights): same mask for both models."""
    keep, restore, mask = mask_of(jax.random.uniform(jax.random.split(RNG)[0], (3, 24)), 0.75)
    weights, pixels = tensors(params), torch.tensor(np.asarray(BATCH["image"]))
    ours = encode(weights["encoder"], pixels, keep, heads=4)
    latent = ours.tokens
    if "probe" in weights.get("adapters", {}):  # block 13 of D²: its attention logits alone
        ours.logits.append(block(weights["adapters"]["probe"], ours.xs[-1], heads=4)[2])
    if decode_from:
        p = weights["encoder"]["norm"]
        latent = torch.nn.functional.layer_norm(ours.xs[decode_from - 1], (32,), p["scale"], p["bias"], 1e-6)
    with torch.no_grad():
        theirs = encode(tensors(teacher), pixels, keep, heads=teacher_heads)
    distill = 0
    for j, (student_layer, teacher_layer) in enumerate(pairs):
        view = torch_view(ours, student_layer, target)
        if "adapters" in weights:
            kernel = weights["adapters"][f"pair_{j}"]["kernel"]
            mix = kernel.T[:, :, None, None]  # over heads, MAE-Lite has a 1x1 convolution
            view = view @ kernel if target == "hidden" else torch.nn.functional.conv2d(view, mix)
        distill = distill + torch.nn.functional.mse_loss(view, torch_view(theirs, teacher_layer, target))
    value = reconstruction(weights["decoder"], latent, pixels, restore, mask, heads=2, patch=4)
    return value, distill, weights


def check(objective, pairs, target, alpha, teacher_heads=3, **kwargs):
    params, state = start(objective, BATCH)
    (loss, aux), grads = value_and_grad(objective, params, state, BATCH, RNG)
    first, second, weights = torch_losses(
        params, state.frozen["teacher"], pairs, target, teacher_heads=teacher_heads, **kwargs
    )
    np.testing.assert_allclose(aux.metrics["reconstruction"], first.item(), rtol=1e-4)
    np.testing.assert_allclose(aux.metrics["distill"], second.item(), rtol=1e-4)
    np.testing.assert_allclose(loss, (first + alpha * second).item(), rtol=1e-4)
    assert_grads_close(grads, gradients(first + alpha * second, weights))
    return grads


@pytest.mark.parametrize(
    "target, pairs", [("logits", ((3, 4),)), ("probabilities", ((1, 2), (3, 4))), ("hidden", ((2, 1), (3, 4), (3, 2)))]
)
def test_d_mae_equals_pytorch(target, pairs):
    objective = make_distill(small(), small(**TEACHER), decoder=DECODER, pairs=pairs, target=target, alpha=0.7)
    check(objective, pairs, target, alpha=0.7)


def test_d_mae_without_adapter_equals_pytorch():
    teacher = small(width=48, depth=4, heads=4)
    objective = make_distill(small(), teacher, decoder=DECODER, pairs=((3, 4),), adapter=False)
    check(objective, ((3, 4),), "logits", alpha=1.0, teacher_heads=4)


@pytest.fixture(scope="module")
def d2():
    return make_d2(small(), small(**TEACHER), decoder=DECODER, decode_from=2, teacher_layer=4, alpha=0.5)


@pytest.fixture(scope="module")
def d2_start(d2):
    return start(d2, BATCH)


def test_d2_equals_pytorch_and_keeps_the_depth_of_the_encoder(d2, d2_start):
    grads = check(d2, ((4, 4),), "logits", alpha=0.5, decode_from=2)
    probe = {"norm1/scale", "norm1/bias", "attn/qkv/kernel", "attn/qkv/bias"}
    assert set(flatten(grads["adapters"])) == {"pair_0/kernel"} | {f"probe/{name}" for name in probe}
    assert "block_2" in grads["encoder"] and "block_3" not in grads["encoder"]


def test_d2_probabilities_equal_pytorch():
    objective = make_d2(
        small(), small(**TEACHER), decoder=DECODER, decode_from=1, teacher_layer=2, target="probabilities"
    )
    check(objective, ((4, 2),), "probabilities", alpha=1.0, decode_from=1)


def reached(objective, params, state, metric):
    """Names of the leaves that a part of the loss sends a gradient to."""
    grads = jax.jit(jax.grad(lambda p: objective.loss(p, state, BATCH, RNG)[1].metrics[metric]))(params)
    return {name for name, g in flatten(grads).items() if np.abs(g).max() > 0}


def test_d2_gradients_go_where_the_paper_says(d2, d2_start):
    params, state = d2_start
    leaves = set(flatten(params))
    by_reconstruction = reached(d2, params, state, "reconstruction")
    by_distillation = reached(d2, params, state, "distill")
    first = {n for n in leaves if n.startswith(("encoder/block_0/", "encoder/block_1/", "encoder/patch_embed/"))}
    later = {n for n in leaves if n.startswith(("encoder/block_2/", "adapters/"))}
    own = {n for n in leaves if n.startswith(("decoder/", "encoder/norm/"))}
    assert first | later | own | {"encoder/cls_token"} == leaves
    assert first <= by_reconstruction & by_distillation
    assert later <= by_distillation and not later & by_reconstruction
    assert own <= by_reconstruction and not own & by_distillation


def test_the_teacher_is_an_argument_and_gets_no_gradient(d2, d2_start):
    params, state = d2_start
    assert "teacher" not in flatten(params)
    program = jax.make_jaxpr(d2.loss)(params, state, BATCH, RNG)
    shapes = {leaf.shape for leaf in jax.tree.leaves(state.frozen) if leaf.ndim > 1}
    assert not shapes & {np.shape(constant) for constant in program.consts}  # weights are not baked in
    to_teacher = jax.jit(jax.grad(lambda s: d2.loss(params, s, BATCH, RNG)[0], allow_int=True))(state).frozen
    assert all(not np.any(g) for g in flatten(to_teacher).values())


def test_the_teacher_matters(d2, d2_start):
    params, state = d2_start
    loss = jax.jit(d2.loss)
    other = state.replace(frozen=jax.tree.map(lambda x: 2 * x, state.frozen))
    a, b = loss(params, state, BATCH, RNG)[1].metrics, loss(params, other, BATCH, RNG)[1].metrics
    assert a["reconstruction"] == b["reconstruction"] and a["distill"] != b["distill"]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: make_distill(small(), small(**TEACHER), decoder=DECODER), "no student layer 12"),
        (lambda: make_distill(small(), small(), decoder=DECODER, pairs=((3, 9),)), "no teacher layer 9"),
        (lambda: make_distill(small(), small(), decoder=DECODER, pairs=()), "at least one pair"),
        (lambda: make_distill(small(), small(), decoder=DECODER, target="logit"), "did you mean 'logits'"),
        (lambda: make_distill(small(), small(patch_size=8), decoder=DECODER, pairs=((3, 3),)), "patch_size"),
        (
            lambda: make_distill(small(), small(**TEACHER), decoder=DECODER, pairs=((3, 3),), adapter=False),
            "equal heads, not 4 and 3",
        ),
        (lambda: make_d2(small(), small(), decoder=DECODER, target="hidden", teacher_layer=3), "target of d2"),
        (lambda: make_d2(small(), small(), decoder=DECODER, decode_from=4, teacher_layer=3), "blocks 1 to 3"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
