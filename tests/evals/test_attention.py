"""Distance, entropy and maps of attention: by hand on attention that is known, and the places of every encoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lvit_jax.evals.attention import attention, distance, entropy, head_figures, query_maps
from lvit_jax.evals.places import Places, places
from lvit_jax.models.features import BlockOut, Features
from lvit_jax.models.hiera import hiera
from lvit_jax.models.swin import shift_mask, split_windows, swin
from lvit_jax.models.vit import vit

GRID = 2, 3
N = 6
RNG = np.random.default_rng(0)
ENCODER = vit("vit_micro", patch_size=4)


def block(logits, bias=None):
    """A block of one window whose Q·Kᵀ/√K is `logits` [H,1+N,1+N], CLS first: queries are rows of a unit matrix."""
    heads, n, _ = logits.shape
    q = np.broadcast_to(np.eye(n)[:, None] * n**0.5, (n, heads, n))
    x = jnp.zeros((1, n, 1))
    k = jnp.asarray(logits.transpose(2, 0, 1), jnp.float32)[None, None]
    return BlockOut(x=x, normed=x, attn=None, mlp=None, q=jnp.asarray(q, jnp.float32)[None, None], k=k, v=k, bias=bias)


def features(*blocks):
    return Features(tokens=blocks[0].x, blocks=blocks, grid=GRID, prefix=1)


def test_of_one_hot_attention_by_hand():
    """Every patch of a 2x3 grid of 4-pixel patches looks at the patch in the upper left corner."""
    logits = np.zeros((1, 1 + N, 1 + N))
    logits[0, :, 1] = 100
    (found,) = head_figures(ENCODER, features(block(logits)))
    by_hand = 4 * (0 + 1 + 2 + 1 + 2**0.5 + 5**0.5) / 6
    np.testing.assert_allclose(found["distance"], [[by_hand]], rtol=1e-6)
    np.testing.assert_allclose(found["entropy"], [[0]], atol=1e-5)


def test_of_uniform_attention_the_entropy_is_ln_n():
    (found,) = head_figures(ENCODER, features(block(np.zeros((2, 1 + N, 1 + N)))))
    np.testing.assert_allclose(found["entropy"], np.full((1, 2), np.log(N)), atol=1e-5)


def test_cls_leaves_the_logits_before_the_softmax():
    """However much CLS attracts: what patches give each other sums to 1 without it."""
    logits = RNG.standard_normal((2, 1 + N, 1 + N))
    calm, drawn = (block(logits + 50 * cls * (np.arange(1 + N) == 0)) for cls in (0, 1))
    np.testing.assert_allclose(attention(calm, 1), attention(drawn, 1), rtol=1e-4)
    np.testing.assert_allclose(attention(drawn, 1).sum(-1), 1, rtol=1e-6)
    by_hand = np.exp(logits[:, 1:, 1:])
    np.testing.assert_allclose(attention(calm, 1)[0, 0], by_hand / by_hand.sum(-1, keepdims=True), rtol=1e-5)


def test_relative_positions_count():
    bias = jnp.zeros((1, 1 + N, 1 + N)).at[:, :, 1].set(100.0)
    (found,) = head_figures(ENCODER, features(block(np.zeros((1, 1 + N, 1 + N)), bias)))
    np.testing.assert_allclose(found["entropy"], [[0]], atol=1e-5)


def test_figures_are_means_over_queries_and_windows():
    weights = jax.nn.softmax(RNG.standard_normal((2, 3, 4, 5, 6)).astype(np.float32))
    apart = RNG.random((3, 5, 6))
    expected = (np.asarray(weights, np.float64) * apart[:, None]).sum(-1).mean(axis=(1, 3))
    np.testing.assert_allclose(distance(weights, apart), expected, rtol=1e-5)
    expected = -(np.asarray(weights) * np.log(np.asarray(weights) + 1e-6)).sum(-1).mean(axis=(1, 3))
    np.testing.assert_allclose(entropy(weights), expected, rtol=1e-5)


def test_a_map_is_the_row_of_its_query():
    logits = RNG.standard_normal((2, 1 + N, 1 + N))
    whole = attention(block(logits), 1)[:, 0]  # [1,H,N,N]
    maps = query_maps(features(block(logits), block(logits)), 1, [(1, 0), (0, 2)])
    assert maps.shape == (1, 2, 2, *GRID)
    np.testing.assert_array_equal(maps[0, 0], whole[0, :, 3].reshape(2, *GRID))
    np.testing.assert_array_equal(maps[0, 1], whole[0, :, 2].reshape(2, *GRID))


def of(encoder, side):
    """(places of every block, shapes of the features) of an encoder on square images."""
    images = jnp.zeros((1, side, side, 1))
    found = jax.eval_shape(lambda: encoder.init_with_output(jax.random.key(0), images)[0])
    return places(encoder, found), found


def test_swins_windows_lie_where_they_were_cut():
    encoder = swin("swin_micro", patch_size=2, channels=1, window=4)
    found, made = of(encoder, 16)  # grids of 8x8 and 4x4 tokens: two blocks each, the second of them shifted
    assert len(found) == len(made.blocks) == 4
    centres = 2 * (np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), axis=-1) + 0.5)
    for where, shift in zip(found[:2], (0, 2), strict=True):
        cut = split_windows(jnp.asarray(centres.reshape(1, 64, 2)), (8, 8), 4, shift)[0]
        np.testing.assert_allclose(where.keys, cut)
        assert where.queries.shape[:2] == made.blocks[0].q.shape[1:3]
    np.testing.assert_array_equal(found[1].mask, shift_mask((8, 8), 4, 2))
    assert found[0].mask is None and found[3].mask is None  # one window holds all of 4x4 tokens
    np.testing.assert_allclose(found[2].keys[0, 0], [2, 2])  # tokens 4 pixels apart
    kept = found[1].distances[found[1].mask == 0]
    assert kept.max() < 2 * 4 * 2**0.5 < found[1].distances.max()  # what the mask keeps apart lies far apart


def test_hieras_pooled_queries_lie_in_the_middle_of_their_four():
    encoder = hiera("hiera_micro", channels=1, patch_stride=4, mask_unit=8, q_pool=2)
    found, made = of(encoder, 64)  # 2x2 units of 8x8 tokens
    shapes = [((4, 64), (4, 64)), ((4, 16), (4, 64)), ((4, 4), (4, 16)), ((1, 16), (1, 16)), ((1, 16), (1, 16))]
    for where, out, (queries, keys) in zip(found, made.blocks, shapes, strict=True):
        assert where.queries.shape[:2] == queries == out.q.shape[1:3]
        assert where.keys.shape[:2] == keys == out.k.shape[1:3]
    for where in found:  # units are 32 pixels: local attention stays within its own
        unit = where.keys // 32
        assert where.keys.shape[0] == 1 or (unit == unit[:, :1]).all()
        np.testing.assert_allclose(where.queries.reshape(-1, 2).mean(axis=0), [32, 32])
    np.testing.assert_allclose(np.sort(np.unique(found[4].keys)), [8, 24, 40, 56])  # 16 pixels apart
    ends = {tuple(place) for place in found[1].queries[0]}
    assert ends == {(y, x) for y in (4, 12, 20, 28) for x in (4, 12, 20, 28)}


def test_distances_of_places():
    where = Places(np.array([[[0.0, 0]]]), np.array([[[3.0, 4], [0, 0]]]))
    np.testing.assert_array_equal(where.distances, [[[5, 0]]])


@pytest.mark.parametrize("name", ["swin_micro", "hiera_micro"])
def test_every_kind_has_figures_of_every_head(name):
    make, side = {"swin_micro": (swin, 16), "hiera_micro": (hiera, 64)}[name]
    encoder = make(name, channels=1, **({"patch_size": 2} if make is swin else {}))
    images = jnp.asarray(RNG.random((2, side, side, 1)), jnp.float32)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), images)
    params = jax.tree.map(lambda leaf: np.asarray(RNG.standard_normal(leaf.shape), np.float32), shapes)
    found = jax.jit(lambda params: head_figures(encoder, encoder.apply(params, images)))(params)
    for figures, out in zip(found, of(encoder, side)[1].blocks, strict=True):
        heads, keys = out.q.shape[3], out.k.shape[2]
        assert figures["distance"].shape == figures["entropy"].shape == (2, heads)
        assert (figures["distance"] > 0).all() and (figures["entropy"] < np.log(keys) + 1e-3).all()
