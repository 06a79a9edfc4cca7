"""Laws of the encoder: what it returns, which inputs it takes, where it computes in which type."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lvit_jax.errors import InputError
from lvit_jax.models import ENCODERS
from lvit_jax.models.adapters import qkv_probe
from lvit_jax.models.features import BlockOut, attention_logits, relation_logits
from lvit_jax.models.layers import DropPath
from lvit_jax.models.positions import sincos_2d
from lvit_jax.models.vit import vit
from lvit_jax.tree import flatten


def small(**kwargs):
    return vit("vit_micro", **{"width": 32, "depth": 2, "heads": 4, "patch_size": 4, "dtype": "float32"} | kwargs)


def images(height=8, width=12, channels=3):
    return jax.random.normal(jax.random.key(0), (2, height, width, channels))


def shapes(x):
    return jax.eval_shape(small().init, jax.random.key(0), x)


@pytest.fixture(scope="module")
def params():
    fresh = jax.jit(small().init)(jax.random.key(1), images())
    return jax.tree.map(lambda x: x + 0.1 * np.random.default_rng(x.size).standard_normal(x.shape, np.float32), fresh)


@pytest.fixture(scope="module")
def features(params):
    return jax.jit(small().apply)(params, images())


def test_blocks_return_their_intermediates(features):
    assert features.grid == (2, 3) and features.tokens.shape == (2, 7, 32) and len(features.blocks) == 2
    first, last = features.blocks
    np.testing.assert_allclose(last.x, first.x + last.attn + last.mlp, atol=1e-5)
    assert last.q.shape == last.k.shape == last.v.shape == (2, 1, 7, 4, 8)
    assert first.normed.shape == (2, 7, 32) and first.bias is None


def test_attention_logits_and_relation(features):
    block = features.blocks[0]
    q, k, v = (np.asarray(x)[:, 0].transpose(0, 2, 1, 3) for x in (block.q, block.k, block.v))
    expected = q @ k.transpose(0, 1, 3, 2) / 8**0.5
    np.testing.assert_allclose(attention_logits(block)[:, 0], expected, atol=1e-5)
    bias = jnp.arange(4 * 49, dtype=jnp.float32).reshape(4, 7, 7)
    np.testing.assert_allclose(attention_logits(block.replace(bias=bias))[:, 0], expected + bias, rtol=1e-5, atol=1e-4)
    weights = jax.nn.softmax(v @ v.transpose(0, 1, 3, 2) / 8**0.5, axis=-1)
    np.testing.assert_allclose(jax.nn.softmax(relation_logits(block.v, block.v))[:, 0], weights, atol=1e-5)


def test_keeping_all_patches_in_another_order_permutes_tokens(params, features):
    keep = jnp.array([[5, 0, 3, 1, 4, 2], [1, 2, 0, 5, 4, 3]])
    tokens = jax.jit(small().apply)(params, images(), keep).tokens
    expected = jnp.take_along_axis(features.tokens[:, 1:], keep[:, :, None], axis=1)
    np.testing.assert_allclose(tokens[:, 1:], expected, atol=1e-5)
    np.testing.assert_allclose(tokens[:, 0], features.tokens[:, 0], atol=1e-5)


def test_removed_patches_are_not_seen(params):
    keep = jnp.array([[5, 0], [1, 2]])
    other = images().at[:, :4, 9:].set(7.0)  # within patch 2, which only the second example keeps
    apply = jax.jit(small().apply)
    a, b = (apply(params, x, keep).tokens for x in (images(), other))
    np.testing.assert_array_equal(a[0], b[0])
    assert np.abs(a[1] - b[1]).max() > 1e-3


def test_learned_positions_start_as_the_fixed_ones(params, features):
    model = small(positions="learned")
    table = jax.jit(model.init)(jax.random.key(0), images())["params"]["pos_embed"]
    np.testing.assert_array_equal(table[0], sincos_2d(32, (2, 3)))
    learned, apply = {"params": params["params"] | {"pos_embed": table}}, jax.jit(model.apply)
    np.testing.assert_allclose(apply(learned, images()).tokens, features.tokens, atol=1e-6)
    moved = {"params": params["params"] | {"pos_embed": table[:, ::-1]}}
    assert np.abs(apply(moved, images()).tokens - features.tokens).max() > 1e-2


@pytest.mark.parametrize("height, width, channels, patch", [(8, 20, 1, 4), (15, 10, 4, 5)])
def test_any_size_patch_and_channels(height, width, channels, patch):
    model, x = small(patch_size=patch, channels=channels), images(height, width, channels)
    shapes = jax.eval_shape(lambda x: model.apply(model.init(jax.random.key(0), x), x), x)
    assert shapes.grid == (height // patch, width // patch)
    assert shapes.tokens.shape == (2, 1 + (height // patch) * (width // patch), 32)


def test_remat_changes_neither_values_nor_gradients(params):
    def loss(p, remat):
        model = small(remat=remat, drop_path=0.3)
        features = model.apply(p, images(), train=True, rngs={"dropout": jax.random.key(2)})
        return jnp.square(features.tokens).mean() + features.blocks[0].q.sum()

    plain, again = (jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, remat) for remat in (False, True))
    np.testing.assert_allclose(plain[0], again[0], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), plain[1], again[1])


def test_bfloat16_is_for_computing_only(params, features):
    model = small(dtype="bfloat16")
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0), images())))
    coarse = jax.jit(model.apply)(params, images())
    block = coarse.blocks[0]
    assert all(x.dtype == jnp.bfloat16 for x in (coarse.tokens, block.x, block.q, block.attn, block.mlp))
    assert attention_logits(block).dtype == jnp.float32
    assert 0 < np.abs(coarse.tokens.astype(jnp.float32) - features.tokens).max() < 0.2


def test_drop_path_drops_whole_examples_and_rescales_the_rest():
    branch = jnp.ones((400, 2, 3))
    out = np.asarray(DropPath(0.25).apply({}, branch, True, rngs={"dropout": jax.random.key(0)}))
    assert set(np.unique(out)) == {np.float32(0), np.float32(1 / 0.75)}
    assert (out == out[:, :1, :1]).all()
    assert abs((out > 0).mean() - 0.75) < 0.08
    assert DropPath(0.25).apply({}, branch, False) is branch


def test_drop_path_rises_linearly_with_depth():
    model = small(depth=3, drop_path=0.4).bind({"params": {"cls_token": jnp.zeros((1, 1, 32))}})
    assert [getattr(model, f"block_{i}").drop_path for i in range(3)] == pytest.approx([0, 0.2, 0.4])


def test_a_partial_block_has_queries_and_keys_only(features):
    probe, x = qkv_probe(small()), features.blocks[-1].x
    variables = probe.init(jax.random.key(0), x, False)
    assert set(flatten(variables["params"])) == {"norm1/scale", "norm1/bias", "attn/qkv/kernel", "attn/qkv/bias"}
    out = probe.apply(variables, x, False)
    assert isinstance(out, BlockOut) and out.attn is None and out.mlp is None
    np.testing.assert_array_equal(out.x, x)
    assert attention_logits(out).shape == (2, 1, 4, 7, 7)


# Encoder and fixed positions, as the recipes count them (section 1.1: with the table, without classifier).
COUNTS = {"vit_tiny": 5.52, "vit_small": 21.67, "vit_base": 85.80, "vit_large": 303.30}


@pytest.mark.parametrize("name", [name for name, (kind, _) in ENCODERS.items() if kind == "vit"])
def test_every_size_builds(name):
    model, x = vit(name, positions="learned"), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    features = jax.eval_shape(lambda p, x: model.apply({"params": p}, x), params, x)
    assert features.tokens.shape == (1, 197, model.width) and len(features.blocks) == model.depth
    if name in COUNTS:
        assert sum(x.size for x in jax.tree.leaves(params)) / 1e6 == pytest.approx(COUNTS[name], abs=0.006)


@pytest.mark.parametrize(
    "act, message",
    [
        (lambda: vit("vit_tinny"), "did you mean 'vit_tiny'"),
        (lambda: vit("vit_tiny", heads=5), "heads=5; nearest: 4"),
        (lambda: vit("vit_tiny", dtype="float16"), "unknown dtype 'float16'"),
        (lambda: vit("vit_tiny", positions="sincosine"), "did you mean 'sincos'"),
        (
            lambda: shapes(images(8, 11)),
            "side of 11 is no multiple of patch size 4; nearest: 12",
        ),
        (lambda: shapes(images(channels=1)), "takes 3 channels, the images have 1"),
    ],
)
def test_errors_name_the_value_and_the_nearest(act, message):
    with pytest.raises(InputError, match=message):
        act()


def test_a_last_block_may_have_other_heads(params):
    """TinyMIM's students: the weights are the same, only their partition into heads in the last block changes."""
    usual, other = (jax.jit(small(last_heads=heads).apply)(params, images()).blocks for heads in (None, 8))
    assert [block.q.shape[3:] for block in other] == [(4, 8), (8, 4)]
    np.testing.assert_array_equal(usual[0].x, other[0].x)
    np.testing.assert_array_equal(usual[1].q.reshape(2, 7, 32), other[1].q.reshape(2, 7, 32))
    assert np.abs(usual[1].attn - other[1].attn).max() > 1e-3


@pytest.mark.parametrize(("shape", "rates"), [("linear", [0.0, 0.1, 0.2, 0.3]), ("constant", [0.3, 0.3, 0.3, 0.0])])
def test_drop_path_reaches_the_blocks_it_should(params, shape, rates):
    model = small(depth=4, drop_path=0.3, drop_path_shape=shape).bind(params)
    np.testing.assert_allclose([getattr(model, f"block_{i}").drop_path for i in range(4)], rates)
