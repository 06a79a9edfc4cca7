"""Laws of Swin: windows, bias, mask token, drop-path, types, sizes, what layer decay makes of its names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lvit_jax.errors import InputError
from lvit_jax.models.features import attention_logits
from lvit_jax.models.swin import join_windows, last_stage_probe, split_windows, swin
from lvit_jax.training.optim import layer_id
from lvit_jax.tree import flatten


def small(**kwargs):
    sizes = {"width": 16, "depths": (2, 2), "heads": (2, 4), "window": 4, "dtype": "float32"}
    return swin("swin_micro", **sizes | kwargs)


def images(height=32, width=64, channels=3):
    return jax.random.normal(jax.random.key(0), (2, height, width, channels))


def shapes(model, x):
    return jax.eval_shape(lambda x: model.apply(model.init(jax.random.key(0), x), x), x)


@pytest.fixture(scope="module")
def params():
    fresh = jax.jit(small().init)(jax.random.key(1), images(), mask=jnp.zeros((2, 128)))
    return jax.tree.map(lambda x: x + 0.2 * np.random.default_rng(x.size).standard_normal(x.shape, np.float32), fresh)


@pytest.fixture(scope="module")
def encode():
    return jax.jit(lambda params, x, mask: small().apply(params, x, mask=mask))


NONE, BATCH = jnp.zeros((2, 128)), images()


def test_windows_split_and_join():
    x = np.arange(2 * 8 * 12).reshape(2, 96, 1)
    windows = split_windows(x, (8, 12), 4)
    np.testing.assert_array_equal(windows[0, 1, :, 0].reshape(4, 4), x[0, :, 0].reshape(8, 12)[:4, 4:8])
    shifted = split_windows(x, (8, 12), 4, 2)
    np.testing.assert_array_equal(shifted[0, 0, :, 0].reshape(4, 4), x[0, :, 0].reshape(8, 12)[2:6, 2:6])
    np.testing.assert_array_equal(join_windows(shifted, (8, 12), 4, 2), x)


def test_blocks_return_windows_and_their_bias(params, encode):
    features = encode(params, BATCH, NONE)
    assert features.grid == (4, 8)
    first, second = features.blocks[:2]
    assert first.q.shape == first.k.shape == first.v.shape == (2, 8, 16, 2, 8) and first.bias.shape == (2, 16, 16)
    np.testing.assert_allclose(second.x, first.x + second.attn + second.mlp, atol=1e-5)


def test_the_bias_reaches_the_logits_by_relative_position(params, encode):
    block = encode(params, BATCH, NONE).blocks[0]
    plain = jnp.einsum("bwmhk,bwnhk->bwhmn", block.q, block.k) / 8**0.5
    bias, table = attention_logits(block) - plain, np.asarray(params["params"]["block_0"]["attn"]["bias_table"])
    for i, j in ((0, 0), (3, 12), (5, 6), (15, 0)):  # query, key within a 4x4 window
        dy, dx = i // 4 - j // 4, i % 4 - j % 4
        expected = np.broadcast_to(table[(dy + 3) * 7 + dx + 3], (2, 8, 2))
        np.testing.assert_allclose(bias[..., i, j], expected, atol=1e-4)


def test_tokens_see_their_window_then_the_shifted_one_but_never_round_the_edge(params, encode):
    moved = encode(params, BATCH.at[:, :4, :4].add(1.0), NONE)  # the first patch
    still = encode(params, BATCH, NONE)
    pairs = zip(moved.blocks[:2], still.blocks[:2], strict=True)
    reached = [np.abs(a.x - b.x).max(axis=(0, 2)).reshape(8, 16) > 0 for a, b in pairs]
    assert reached[0][:4, :4].all() and reached[0].sum() == 16
    # Shifted by 2: windows [0:2], [2:6], [6:8] by rows; what was reached spreads over [0:6, 0:6] and no further.
    assert reached[1][:6, :6].all() and reached[1].sum() == 36


def test_masked_patches_are_replaced_before_anything_sees_them(params, encode):
    mask = NONE.at[:, :3].set(1)
    other = BATCH.at[:, :4, :12].set(9.0)  # patches 0 to 2
    a, b = (encode(params, x, mask).tokens for x in (BATCH, other))
    np.testing.assert_array_equal(a, b)
    assert np.abs(encode(params, other, NONE).tokens - encode(params, BATCH, NONE).tokens).max() > 1e-2
    assert np.abs(a - encode(params, BATCH, NONE).tokens).max() > 1e-2


@pytest.mark.parametrize("window", [8, 20])
def test_a_grid_no_larger_than_the_window_is_one_window(window):
    blocks = shapes(small(window=window), images(32, 32)).blocks
    assert [block.q.shape[1:3] for block in blocks] == [(1, 64), (1, 64), (1, 16), (1, 16)]
    assert blocks[0].bias.shape == (2, 64, 64)  # a table for the window as it is


def test_drop_path_rises_over_all_stages_and_remat_changes_no_gradient(params):
    few = {name: leaf for name, leaf in params["params"].items() if name not in ("block_3", "mask_token")}

    def loss(p, remat):
        model = small(depths=(2, 1), remat=remat, drop_path=0.5)
        out = model.apply({"params": p}, BATCH, train=True, rngs={"dropout": jax.random.key(2)})
        return jnp.square(out.tokens).mean(), jnp.stack([jnp.square(b.attn).mean() for b in out.blocks])

    (plain, again) = (jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)(few, remat)[0] for remat in (False, True))
    for name, gradient in flatten(plain).items():
        np.testing.assert_allclose(flatten(again)[name], gradient, rtol=1e-3, atol=1e-5, err_msg=name)
    drops = [eqn for eqn in jax.make_jaxpr(lambda p: loss(p, False))(few).jaxpr.eqns if "bernoulli" in str(eqn)]
    assert [eqn.invars[-1].val.item() for eqn in drops] == pytest.approx([0.75, 0.75, 0.5, 0.5])


def test_bfloat16_is_for_computing_only():
    model = small(dtype="bfloat16")
    fresh = jax.eval_shape(model.init, jax.random.key(0), BATCH)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(fresh))
    features = shapes(model, BATCH)
    assert all(x.dtype == jnp.bfloat16 for x in (features.tokens, features.blocks[1].attn, features.stages[0]))
    assert jax.eval_shape(attention_logits, features.blocks[1]).dtype == jnp.float32


def test_layers_of_a_swin_are_those_of_simmim():
    """optimizer.py of the official code: stem 0, block i of all stages i + 1, a merging as the block before it."""
    model = swin("swin_c48")
    fresh = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)), mask=jnp.zeros((1, 3136)))
    layers = {name: layer_id(f"encoder/{name}", model.depth) for name in flatten(fresh["params"])}
    assert {name for name, layer in layers.items() if layer == 0} == {
        *("mask_token", "patch_embed/kernel", "patch_embed/bias", "patch_norm/scale", "patch_norm/bias")
    }
    assert {layer for name, layer in layers.items() if name.startswith("block_")} == set(range(1, 13))
    merges = {name.split("/")[0]: layer for name, layer in layers.items() if name.startswith("merge_")}
    assert merges == {"merge_1": 2, "merge_3": 4, "merge_9": 10}
    assert layers["block_4/attn/bias_table"] == 5 and layers["norm/scale"] == 13


def test_a_partial_block_has_queries_keys_and_bias_only():
    probe, x = last_stage_probe(small(), 0), jnp.zeros((1, 32, 32))
    assert set(flatten(jax.eval_shape(lambda: probe.init(jax.random.key(0), x, (4, 8), False))["params"])) == {
        *("norm1/scale", "norm1/bias", "attn/qkv/kernel", "attn/qkv/bias", "attn/bias_table")
    }


@pytest.mark.parametrize("name, millions", [("swin_c48", 7.30), ("swin_c96", 28.3)])
def test_sizes_of_the_recipes(name, millions):
    model, x = swin(name), jnp.zeros((1, 224, 224, 3))
    params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    width = model.width * 8
    count = sum(leaf.size for leaf in jax.tree.leaves(params)) + 1000 * (width + 1)
    assert count / 1e6 == pytest.approx(millions, abs=0.05)  # recipes 1.5, classifier included
    assert shapes(model, x).blocks[-1].q.shape == (1, 1, 49, 24, model.width * 8 // 24)


@pytest.mark.parametrize(
    "act, message",
    [
        (lambda: swin("swin_mcro"), "did you mean 'swin_micro'"),
        (lambda: swin("swin_c48", dtype="float16"), "unknown dtype"),
        (lambda: small(heads=(2,)), "needs 2 of them"),
        (lambda: small(heads=(2, 5)), "stage 2: width 32 is no multiple of heads=5; nearest: 4"),
        (lambda: small(window=0), "window=0"),
        (lambda: shapes(small(), images(36, 36)), "images of 36x36 .* windows of 4 .*; nearest: 32x32"),
        (
            lambda: shapes(swin("swin_c48"), jnp.zeros((1, 192, 192, 3))),
            "windows of 7 and 3 mergings; nearest: 224x224",
        ),
        (lambda: shapes(small(), images(32, 33)), "nearest: 32x32"),
        (lambda: shapes(small(), images(24, 24)), "images of 24x24 .*; nearest: 16x16"),
        (lambda: shapes(small(), images(channels=1)), "takes 3 channels, the images have 1"),
    ],
)
def test_errors_name_the_value_and_the_nearest(act, message):
    with pytest.raises(InputError, match=message):
        act()
