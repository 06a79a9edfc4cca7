"""Classifiers against timm's VisionTransformer on copied weights: logits to 1e-4."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm
import torch

from lvit_jax.models.heads import classifier
from lvit_jax.models.vit import vit


def from_timm(model, pool):
    """timm's weights as our tree, written out here so that the test leans on no converter."""
    state = {name: value.detach().numpy() for name, value in model.state_dict().items()}

    def linear(name):
        return {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}

    def norm(name):
        return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}

    encoder = {
        "cls_token": state["cls_token"],
        "pos_embed": state["pos_embed"],
        "patch_embed": {
            "kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
            "bias": state["patch_embed.proj.bias"],
        },
    }
    for i in range(len(model.blocks)):
        encoder[f"block_{i}"] = {
            "norm1": norm(f"blocks.{i}.norm1"),
            "attn": {part: linear(f"blocks.{i}.attn.{part}") for part in ("qkv", "proj")},
            "norm2": norm(f"blocks.{i}.norm2"),
            "mlp": {part: linear(f"blocks.{i}.mlp.{part}") for part in ("fc1", "fc2")},
        }
    head = {"norm": norm("fc_norm" if pool == "mean" else "norm"), "fc": linear("head")}
    return {"encoder": encoder, "head": head}


@pytest.mark.parametrize("heads, pool, size", [(12, "mean", 64), (3, "mean", 48), (12, "cls", 48), (3, "cls", 64)])
def test_logits_equal_timms(heads, pool, size):
    torch.manual_seed(heads)
    shape = {"embed_dim": 192, "depth": 3, "num_heads": heads, "num_classes": 11, "img_size": size}
    theirs = timm.models.VisionTransformer(**shape, global_pool="avg" if pool == "mean" else "token").eval()
    for parameter in theirs.parameters():  # no zeros and ones left
        torch.nn.init.normal_(parameter, std=0.2 if parameter.ndim < 2 else 0.05)
    encoder = vit("vit_tiny", heads=heads, depth=3, positions="learned", dtype="float32")
    model = classifier(encoder, 11, pool)
    images = np.random.default_rng(0).standard_normal((2, size, size, 3), np.float32)
    ours = jax.jit(model.apply)({"params": from_timm(theirs, pool)}, jnp.asarray(images))
    with torch.no_grad():
        expected = theirs(torch.tensor(images).permute(0, 3, 1, 2)).numpy()
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
