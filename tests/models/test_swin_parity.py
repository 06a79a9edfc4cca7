"""Swin and SimMIM on it against transformers, on its random weights: features, logits, classification norm, loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import SwinConfig, SwinForMaskedImageModeling

from lvit_jax.models.features import attention_logits
from lvit_jax.models.heads import classifier
from lvit_jax.models.swin import swin
from lvit_jax.objectives.simmim import SimMIM, reconstruction_loss
from lvit_jax.tree import flatten

SIZES = {"width": 16, "depths": (2, 2), "heads": (2, 4), "window": 4}
MODEL = swin("swin_micro", **SIZES, dtype="float32")


def linear(theirs, name):
    return {"kernel": theirs[f"{name}.weight"].T, "bias": theirs[f"{name}.bias"]}


def norm(theirs, name):
    return {"scale": theirs[f"{name}.weight"], "bias": theirs[f"{name}.bias"]}


def encoder_tree(theirs):
    """transformers' tensors (without 'swin.') as our tree of {encoder}."""
    patch = "embeddings.patch_embeddings.projection"
    tree = {
        "patch_embed": {"kernel": theirs[f"{patch}.weight"].transpose(2, 3, 1, 0), "bias": theirs[f"{patch}.bias"]},
        "patch_norm": norm(theirs, "embeddings.norm"),
        "mask_token": theirs["embeddings.mask_token"],
        "merge_1": {
            "kernel": theirs["encoder.layers.0.downsample.reduction.weight"].T,
            "norm": norm(theirs, "encoder.layers.0.downsample.norm"),
        },
        "norm": norm(theirs, "layernorm"),
    }
    for i in range(4):
        at = f"encoder.layers.{i // 2}.blocks.{i % 2}"
        q, k, v = (linear(theirs, f"{at}.attention.{x}_proj") for x in "qkv")
        tree[f"block_{i}"] = {
            "norm1": norm(theirs, f"{at}.layernorm_before"),
            "attn": {
                "qkv": {leaf: np.concatenate([q[leaf], k[leaf], v[leaf]], axis=-1) for leaf in q},
                "proj": linear(theirs, f"{at}.attention.o_proj"),
                "bias_table": theirs[f"{at}.attention.relative_position_bias.relative_position_bias_table"],
            },
            "norm2": norm(theirs, f"{at}.layernorm_after"),
            "mlp": {"fc1": linear(theirs, f"{at}.mlp.fc1"), "fc2": linear(theirs, f"{at}.mlp.fc2")},
        }
    return tree


@pytest.fixture(scope="module")
def torch_model():
    torch.manual_seed(0)
    config = SwinConfig(
        image_size=32,
        patch_size=4,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
        encoder_stride=8,
        attn_implementation="eager",
    )
    model = SwinForMaskedImageModeling(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


@pytest.fixture(scope="module")
def tree(torch_model):
    theirs = {name: p.detach().numpy() for name, p in torch_model.named_parameters()}
    return encoder_tree({name.removeprefix("swin."): array for name, array in theirs.items()})


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).standard_normal((2, 32, 32, 3), np.float32)


@pytest.fixture(scope="module")
def mask():
    return np.random.default_rng(1).integers(0, 2, (2, 64)).astype(np.float32)


def close(ours, theirs):
    """Within 1e-4 of the largest entry."""
    theirs = theirs.detach().numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def test_our_tree_is_that_of_the_model(tree):
    fresh = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)), mask=jnp.zeros((1, 64)))["params"]
    assert {k: x.shape for k, x in flatten(fresh).items()} == {k: x.shape for k, x in flatten(tree).items()}


@pytest.fixture(scope="module")
def features(tree, images):
    return jax.jit(MODEL.apply)({"params": {k: v for k, v in tree.items() if k != "mask_token"}}, images)


def test_features_equal_transformers(features, torch_model, images):
    pixels = torch.tensor(images).permute(0, 3, 1, 2)
    out = torch_model.swin(pixels, output_hidden_states=True, output_attentions=True)
    close(features.tokens, out.last_hidden_state)
    assert features.prefix == 0 and features.grid == (4, 4)
    close(features.stages[0], out.hidden_states[1])  # after its patch merging
    close(features.stages[1], out.hidden_states[2])
    # In the last stage nothing is masked: attention is the softmax of the logits with their bias.
    weights = jax.nn.softmax(attention_logits(features.blocks[3]), axis=-1)
    close(weights[:, 0], out.attentions[1])


def test_a_classifier_norms_tokens_before_it_pools_them(torch_model, tree, images):
    model = classifier(MODEL, 5, pool="norm_mean")
    fc = {"kernel": np.random.default_rng(2).standard_normal((32, 5), np.float32), "bias": np.zeros(5, np.float32)}
    encoder = {name: leaf for name, leaf in tree.items() if name not in ("norm", "mask_token")}
    logits = jax.jit(model.apply)({"params": {"encoder": encoder, "head": {"norm": tree["norm"], "fc": fc}}}, images)
    torch_model.swin.pooler = torch.nn.AdaptiveAvgPool1d(1)
    pooled = torch_model.swin(torch.tensor(images).permute(0, 3, 1, 2)).pooler_output
    close(logits, pooled @ torch.tensor(fc["kernel"]))


def test_simmim_loss_and_gradients_equal_transformers(torch_model, tree, images, mask):
    conv = torch_model.decoder[0]
    kernel = conv.weight.detach().numpy()[:, :, 0, 0]  # rows (channel, row, column), ours (row, column, channel)
    order = np.arange(192).reshape(3, 8, 8).transpose(1, 2, 0).ravel()
    params = {"encoder": tree, "decoder": {"kernel": kernel[order].T, "bias": conv.bias.detach().numpy()[order]}}
    model = SimMIM(MODEL)
    pixels = np.kron(mask.reshape(2, 8, 8), np.ones((4, 4)))[..., None]

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        out = model.apply({"params": params}, images, mask)
        return reconstruction_loss(out, images, pixels, norm_pix=False)

    value, grads = loss(jax.tree.map(jnp.asarray, params))
    out = torch_model(torch.tensor(images).permute(0, 3, 1, 2), bool_masked_pos=torch.tensor(mask).bool())
    np.testing.assert_allclose(value, out.loss.item(), rtol=1e-4)
    torch_model.zero_grad()
    out.loss.backward()
    theirs = {name.removeprefix("swin."): p.grad.numpy() for name, p in torch_model.named_parameters()}
    expected = flatten({"encoder": encoder_tree(theirs)})
    ours = flatten({"encoder": grads["encoder"]})
    assert ours.keys() == expected.keys()
    floor = 1e-6 * max(np.linalg.norm(g) for g in expected.values())  # a key's bias has no gradient but rounding
    for name, gradient in expected.items():
        assert np.linalg.norm(ours[name] - gradient) <= 1e-3 * np.linalg.norm(gradient) + floor, name
