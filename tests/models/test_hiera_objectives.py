"""Hiera under the objectives: distillation against PyTorch, fine-tuning from pre-training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hiera_weights import SIZES, from_hf, hf_model

from lvit_jax.bin import flags
from lvit_jax.build.parts import make_objective, shapes
from lvit_jax.build.weights import resizer
from lvit_jax.errors import InputError
from lvit_jax.models.hiera import hiera
from lvit_jax.models.vit import vit
from lvit_jax.objectives.distill import make_d2, make_distill
from lvit_jax.training.checkpoint import load_into
from lvit_jax.training.optim import layer_id
from lvit_jax.tree import flatten
from lvit_jax.types import TrainState

DECODER = {"width": 24, "depth": 1, "heads": 3}
HF_DECODER = {"decoder_hidden_size": 24, "decoder_depth": 1, "decoder_num_heads": 3}
STUDENT = {"first_width": 16, "depths": (1, 1, 2, 1)}
TEACHER = {"first_width": 24, "depths": (1, 2, 1, 2)}
RNG = jax.random.key(5)


def small(**size):
    return hiera("hiera_micro", q_pool=2, dtype="float32", **size)


def torch_logits(model, pixels, noise):
    """Loss of a transformers MAE, and Q·Kᵀ/√K of its last block, from what its qkv layer puts out."""
    seen = []
    attention = model.hiera.encoder.stages[-1].layers[-1].attn
    handle = attention.qkv.register_forward_hook(lambda module, inputs, output: seen.append(output))
    loss = model(pixels, noise=noise).loss
    handle.remove()
    b, n, d = seen[0].shape
    q, k, _ = seen[0].reshape(b, n, 3, 8, d // 24).permute(2, 0, 3, 1, 4)
    return loss, q @ k.transpose(-1, -2) / (d // 24) ** 0.5


def test_distillation_equals_pytorch():
    """The last attention logits [B,1,8,12,12] through an adapter 8->8, the same mask for both, not decoupled."""
    images = np.random.default_rng(0).standard_normal((2, *SIZES["image_size"], 3)).astype(np.float32)
    objective = make_distill(small(**STUDENT), small(**TEACHER), decoder=DECODER, mask_ratio=0.4, pairs=((5, 6),))
    common = {"num_query_pool": 2, "mask_ratio": 0.4, **HF_DECODER}
    student = hf_model("HieraForPreTraining", **common)
    teacher = hf_model("HieraForPreTraining", embed_dim=24, depths=[1, 2, 1, 2], **common)
    mix = np.random.default_rng(1).standard_normal((8, 8)).astype(np.float32)
    params = {**from_hf(student), "adapters": {"pair_0": {"kernel": mix}}}
    frozen = {"teacher": from_hf(teacher)["encoder"]}
    abstract = jax.eval_shape(objective.init, RNG, {"image": images})
    assert flatten(jax.tree.map(jnp.shape, params)) == flatten(jax.tree.map(jnp.shape, abstract.params))
    assert flatten(jax.tree.map(jnp.shape, frozen)) == flatten(jax.tree.map(jnp.shape, abstract.frozen))

    state = TrainState(jnp.int32(0), params, (), frozen, {})
    (loss, aux), grads = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))(
        params, state, {"image": images}, RNG
    )
    noise = torch.tensor(np.asarray(jax.random.uniform(jax.random.split(RNG)[0], (2, 6))))
    pixels = torch.tensor(images).permute(0, 3, 1, 2)
    first, ours = torch_logits(student, pixels, noise)
    adapted = torch.nn.functional.conv2d(ours, torch.tensor(mix.T[:, :, None, None]))
    second = torch.nn.functional.mse_loss(adapted, torch_logits(teacher, pixels, noise)[1].detach())
    np.testing.assert_allclose(aux.metrics["reconstruction"], first.item(), rtol=1e-4)
    np.testing.assert_allclose(aux.metrics["distill"], second.item(), rtol=1e-4)
    np.testing.assert_allclose(loss, (first + second).item(), rtol=1e-4)
    (first + second).backward()
    for parameter in student.parameters():
        parameter.data = parameter.grad
    ours, theirs = flatten(jax.device_get(grads)), flatten(from_hf(student))
    for name, gradient in theirs.items():
        assert np.abs(ours[name] - gradient).max() <= 1e-3 * np.abs(gradient).max() + 1e-6, name


@pytest.mark.parametrize(
    "pairs, teacher, message",
    [
        (((4, 6),), small(**TEACHER), None),  # 4 heads in the third stage: the adapter makes 8
        (((5, 4),), small(**TEACHER), "student layer 5 of shape .* teacher layer 4 of .* cannot be compared"),
        (((5, 7),), small(**TEACHER), "no teacher layer 7"),
        (((5, 6),), hiera("hiera_micro", q_pool=3, dtype="float32", **TEACHER), "patch_size of student"),
        (((5, 12),), vit("vit_tiny", patch_size=16), "mask_size of student"),
    ],
)
def test_a_teacher_that_does_not_fit_is_named(pairs, teacher, message):
    def build():
        objective = make_distill(small(**STUDENT), teacher, decoder=DECODER, mask_ratio=0.4, pairs=pairs)
        return jax.eval_shape(objective.init, RNG, {"image": jnp.zeros((1, 64, 96, 3))})

    if message is None:
        assert build().params["adapters"]["pair_0"]["kernel"].shape == (4, 8)
    else:
        with pytest.raises(InputError, match=message):
            build()


def test_d2_is_refused():
    with pytest.raises(InputError, match="use mae or distill, not d2"):
        make_d2(small(**STUDENT), small(**TEACHER), decoder=DECODER, decode_from=3, teacher_layer=6)


def test_fine_tuning_takes_all_but_the_head_from_pre_training():
    """From two poolings to three, and to other positions: 224 to 256 pixels."""
    before = flags.load_config("pretrain/hiera_tiny").to_dict()
    config = flags.load_config("finetune/hiera_tiny").to_dict()
    config["model"]["image_size"] = 256
    source = jax.tree.map(
        lambda x: np.full(x.shape, 0.5, np.float32), shapes(make_objective(before, None), before).params
    )
    target = shapes(make_objective(config, ("a", "b")), config).params
    init = config["init"]
    resize = resizer(before["model"], config["model"])
    loaded = flatten(load_into(target, source, fresh=init["fresh"], dropped=init["dropped"], resize=resize))
    assert set(flatten(target)) - set(loaded) == {
        f"head/{name}" for name in ("norm/scale", "norm/bias", "fc/kernel", "fc/bias")
    }
    assert loaded["encoder/pos_embed"].shape == (1, 64 * 64, 46)
    np.testing.assert_allclose(loaded["encoder/pos_embed"], 0.5, atol=1e-5)
    layers = {layer_id(name, 12) for name in flatten(target)}
    assert layers == set(range(14))
