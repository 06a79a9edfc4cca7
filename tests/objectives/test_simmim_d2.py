"""D² for SimMIM on Swin against a direct PyTorch computation; where gradients flow; what it refuses."""

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from common import assert_grads_close, images, small, start, value_and_grad
from torch_reference import gradients, linear, tensors

from lvit_jax.errors import InputError
from lvit_jax.models.swin import swin
from lvit_jax.objectives.simmim import make_simmim
from lvit_jax.objectives.simmim_d2 import make_simmim_d2
from lvit_jax.tree import flatten

RNG = jax.random.key(5)
BATCH = {"image": images(batch=2, height=16, width=16)}
MASK = {"mask_ratio": 0.6, "mask_unit": 4}


def tiny(**kwargs):
    """16 patches of 4 pixels at 4x4, then 2x2, in windows of 2: the second block of stage 1 is shifted."""
    sizes = {"width": 16, "depths": (2, 1), "heads": (2, 4), "window": 2, "dtype": "float32"}
    return swin("swin_micro", **sizes | kwargs)


TEACHER = {"width": 24, "depths": (2, 2), "heads": (3, 6)}
HEAD = {"width": 12, "heads": 3, "window": 2}


def norm(p, x):
    return F.layer_norm(x, x.shape[-1:], p["scale"], p["bias"], 1e-5)


def attention(p, x, side, heads, shift):
    """Window attention of one token at a time: -> output [B,N,D], logits of each window before any mask."""
    b, n, d = x.shape
    q, k, v = linear(p["qkv"], x).reshape(b, n, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
    out, logits = torch.zeros(b, heads, n, d // heads), []
    for top in range(0, side, 2):
        for left in range(0, side, 2):
            places = [((top + i + shift) % side, (left + j + shift) % side) for i in range(2) for j in range(2)]
            wrapped = [(top + i + shift >= side, left + j + shift >= side) for i in range(2) for j in range(2)]
            at = torch.tensor([y * side + x_ for y, x_ in places])
            bias = torch.stack(
                [
                    torch.stack([p["bias_table"][(i // 2 - j // 2 + 1) * 3 + i % 2 - j % 2 + 1] for j in range(4)])
                    for i in range(4)
                ]
            ).permute(2, 0, 1)
            window = q[:, :, at] @ k[:, :, at].transpose(-1, -2) / (d // heads) ** 0.5 + bias
            apart = torch.tensor([[a != b_ for b_ in wrapped] for a in wrapped])
            weights = (window - 100.0 * apart).softmax(-1)
            out = out.index_copy(2, at, weights @ v[:, :, at])
            logits.append(window)
    out = out.transpose(1, 2).reshape(b, n, d)
    return (linear(p["proj"], out) if "proj" in p else out), torch.stack(logits, 1)


def block(p, x, side, heads, shift):
    x1, logits = attention(p["attn"], norm(p["norm1"], x), side, heads, shift)
    if "proj" not in p["attn"]:
        return x, logits
    x = x + x1
    return x + linear(p["mlp"]["fc2"], F.gelu(linear(p["mlp"]["fc1"], norm(p["norm2"], x)))), logits


def encode(p, pixels, mask, heads):
    """recipes 1.5 for two stages -> what stage 1 hands on, the last stream, logits of all blocks."""
    kernel = p["patch_embed"]["kernel"].permute(3, 2, 0, 1)
    x = F.conv2d(pixels.permute(0, 3, 1, 2), kernel, p["patch_embed"]["bias"], stride=4).flatten(2).transpose(1, 2)
    x = norm(p["patch_norm"], x)
    x = x * (1 - mask[:, :, None]) + p["mask_token"] * mask[:, :, None]
    logits = []
    for i in range(2):
        x, seen = block(p[f"block_{i}"], x, 4, heads[0], shift=i)
        logits.append(seen)
    x = x.reshape(len(x), 4, 4, -1)
    x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1).reshape(len(x), 4, -1)
    merged = x = norm(p["merge_1"]["norm"], x) @ p["merge_1"]["kernel"]
    for i in range(2, sum(name.startswith("block_") for name in p)):
        x, seen = block(p[f"block_{i}"], x, 2, heads[1], shift=0)
        logits.append(seen)
    return merged, x, logits


def pixel_loss(prediction, pixels, mask):
    """prediction [B,4,192] at stride 8; mask [B,16] of 4-pixel patches."""
    x = prediction.reshape(-1, 2, 2, 8, 8, 3).permute(0, 1, 3, 2, 4, 5).reshape(pixels.shape)
    m = mask.reshape(-1, 4, 4).repeat_interleave(4, 1).repeat_interleave(4, 2)[..., None]
    return ((x - pixels).abs() * m).sum() / (m.sum() + 1e-5) / 3


def decode(p, x):
    x = norm(p["norm"], x) if "norm" in p else x
    return linear(p["head"], block(p["block_0"], linear(p["embed"], x), 2, 3, 0)[0])


def mask_of(rng):
    """The patches that ceil(0.6·16) = 10 units of least noise cover: a unit is a patch here."""
    noise = np.asarray(jax.random.uniform(jax.random.split(rng)[0], (2, 16)))
    return torch.tensor((noise.argsort(1).argsort(1) < 10).astype(np.float32))


@pytest.fixture(scope="module")
def d2():
    objective = make_simmim_d2(tiny(), tiny(**TEACHER), head=HEAD, **MASK, decode_stage=1, teacher_layer=4, alpha=0.7)
    return objective, *start(objective, BATCH)


@pytest.fixture(scope="module")
def ours(d2):
    return value_and_grad(*d2, BATCH, RNG)


def test_loss_and_gradients_equal_pytorch(d2, ours):
    _, params, state = d2
    (loss, aux), grads = ours
    weights, mask, pixels = tensors(params), mask_of(RNG), torch.tensor(np.asarray(BATCH["image"]))
    merged, x, _ = encode(weights["encoder"], pixels, mask, (2, 4))
    first = pixel_loss(decode(weights["decoder"], merged), pixels, mask)
    _, student = block(weights["adapters"]["probe"], x, 2, 4, 0)
    with torch.no_grad():
        teacher = encode(tensors(state.frozen["teacher"]), pixels, mask, (3, 6))[2][3]
    mixing = weights["adapters"]["pair_0"]["kernel"].T[:, :, None, None]  # a 1x1 convolution over heads
    second = F.mse_loss(F.conv2d(student[:, 0], mixing), teacher[:, 0])
    np.testing.assert_allclose(aux.metrics["reconstruction"], first.item(), rtol=1e-4)
    np.testing.assert_allclose(aux.metrics["distill"], second.item(), rtol=1e-4)
    np.testing.assert_allclose(loss, (first + 0.7 * second).item(), rtol=1e-4)
    assert_grads_close(grads, gradients(first + 0.7 * second, weights))


def test_gradients_go_where_the_recipe_says(d2):
    objective, params, state = d2

    @jax.jit
    def both(params):
        metric = lambda name: jax.grad(lambda p: objective.loss(p, state, BATCH, RNG)[1].metrics[name])(params)  # noqa: E731
        return metric("reconstruction"), metric("distill")

    pixels, attention = ({n for n, g in flatten(grads).items() if np.abs(g).max() > 0} for grads in both(params))
    first = {n for n in flatten(params) if n.startswith(("encoder/block_0/", "encoder/block_1/", "encoder/merge_1/"))}
    later = {n for n in flatten(params) if n.startswith(("encoder/block_2/", "adapters/"))}
    assert first <= pixels & attention and "encoder/mask_token" in pixels & attention
    assert later <= attention and not later & pixels
    assert {n for n in flatten(params) if n.startswith("decoder/")} == pixels - attention
    assert "encoder/norm/scale" not in flatten(params)


def test_the_teacher_is_a_whole_simmim_encoder(d2):
    _, _, state = d2
    plain = make_simmim(tiny(**TEACHER), head=HEAD, **MASK)
    theirs = jax.eval_shape(plain.init, RNG, BATCH).params["encoder"]
    names = {name: leaf.shape for name, leaf in flatten(theirs).items()}
    assert names == {name: leaf.shape for name, leaf in flatten(state.frozen["teacher"]).items()}


def test_the_block_head_reads_normed_tokens_of_the_last_stage():
    objective = make_simmim(tiny(), head=HEAD, **MASK)
    params, state = start(objective, BATCH)
    loss = jax.jit(objective.loss)(params, state, BATCH, RNG)[0]
    weights, mask, pixels = tensors(params), mask_of(RNG), torch.tensor(np.asarray(BATCH["image"]))
    x = norm(weights["encoder"]["norm"], encode(weights["encoder"], pixels, mask, (2, 4))[1])
    np.testing.assert_allclose(loss, pixel_loss(decode(weights["decoder"], x), pixels, mask).item(), rtol=1e-4)


@pytest.mark.parametrize(
    "student, teacher, kwargs, message",
    [
        (tiny(), small(), {}, "the teacher is a ViT"),
        (tiny(), tiny(window=4), {}, "window of student and teacher differ: 2 and 4"),
        (tiny(), tiny(depths=(2, 2, 2), heads=(2, 2, 2)), {}, "the student has 2 stages, the teacher 3"),
        (tiny(), tiny(), {"decode_stage": 2}, "decode_stage=2: stages 1 to 1 hand on .*; nearest: 1"),
        (tiny(), tiny(), {"teacher_layer": 2}, "teacher_layer=2: .* layers 3 to 3; nearest: 3"),
        (tiny(), tiny(), {"head": "blok"}, "did you mean 'block'"),
        (tiny(), tiny(), {"head": {"width": 8}}, "width, heads and window"),
    ],
)
def test_bad_arguments_are_one_line(student, teacher, kwargs, message):
    with pytest.raises(InputError, match=message):
        make_simmim_d2(student, teacher, **{"decode_stage": 1, "teacher_layer": 3} | MASK | kwargs)


def test_predict_needs_no_teacher(d2):
    objective, params, state = d2
    out = jax.eval_shape(objective.predict, params, state.replace(frozen={}), BATCH)
    assert out["reconstruction"].shape == BATCH["image"].shape and out["loss"].shape == ()
