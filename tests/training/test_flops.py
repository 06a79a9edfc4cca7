"""The FLOP counter against counts by hand: two per multiply-add of every matrix product, written from the formulae."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas

from lvit_jax.models.vit import vit
from lvit_jax.objectives.classify import make_classify
from lvit_jax.objectives.distill import make_d2
from lvit_jax.objectives.mae import make_mae
from lvit_jax.objectives.tinymim import make_tinymim
from lvit_jax.training.flops import count_flops
from lvit_jax.training.optim import make_tx
from lvit_jax.training.step import make_init, make_step

BATCH, PIXELS = 8, 16 * 16 * 3  # of a patch
TINY, BASE, LARGE = (192, 12), (768, 12), (1024, 24)  # width, depth
KEPT, ALL = 49 + 1, 196 + 1  # tokens with CLS, of MAE's quarter and of the whole image of 224 pixels


def shape(*sides):
    return jax.ShapeDtypeStruct(sides, jnp.float32)


def counted(objective, views=(), **options):
    """FLOPs per image of the whole step: loss, gradients, AdamW."""
    batch = {"image": shape(BATCH, *views, 224, 224, 3), "label": jax.ShapeDtypeStruct((BATCH,), jnp.int32)}
    params = jax.eval_shape(objective.init, jax.random.key(0), batch).params
    tx, _ = make_tx(params, steps=9, steps_per_epoch=3, batch_size=BATCH, blr=1e-3, warmup_epochs=1, weight_decay=0.05)
    state = jax.eval_shape(make_init(objective, tx), jax.random.key(0), batch, {}, {})
    return count_flops(make_step(objective, tx, 0, **options), state, batch) / BATCH


def embedding(tokens, width):
    """One product per patch; its pixels need no gradient, so its backward pass is one product too."""
    return 2 * (tokens - 1) * PIXELS * width


def qkv(tokens, width):
    return 2 * tokens * width * 3 * width


def products(tokens, width):
    """One N x N matrix per head: attention's logits, its mixture of values, or a relation."""
    return 2 * tokens**2 * width


def block(tokens, width):
    """qkv, logits, mixture, projection, and an MLP of four times the width."""
    linear = 2 * tokens * width * (width + 2 * 4 * width)
    return qkv(tokens, width) + 2 * products(tokens, width) + linear


def encoder(tokens, width, blocks):
    """Forward pass."""
    return embedding(tokens, width) + blocks * block(tokens, width)


def trained(forward, tokens, width):
    """Forward, and twice that backward, but for the embedding's pixels."""
    return 3 * forward - embedding(tokens, width)


def mae_tiny():
    """Forward pass of MAE-Tiny: the encoder sees a quarter, one decoder block of width 96 sees everything."""
    width, small = TINY[0], 96
    decoder = 2 * KEPT * width * small + block(ALL, small) + 2 * (ALL - 1) * small * PIXELS
    return encoder(KEPT, *TINY) + decoder


def classifier():
    return trained(encoder(ALL, *TINY) + 2 * TINY[0] * 1000, ALL, TINY[0])


def mae():
    return trained(mae_tiny(), KEPT, TINY[0])


def d2():
    """Beside MAE: a 13th block of qkv and logits, 12 heads mixed into 12, and ViT-B forward to block 12's logits."""
    probe = qkv(KEPT, TINY[0]) + products(KEPT, TINY[0]) + 2 * KEPT**2 * 12 * 12
    teacher = encoder(KEPT, BASE[0], 11) + qkv(KEPT, BASE[0]) + products(KEPT, BASE[0])
    return trained(mae_tiny() + probe, KEPT, TINY[0]) + teacher


def tinymim():
    """ViT-B to the qkv of its last block; ViT-L forward to the qkv of block 18; two relations of each."""

    def to_relations(width, blocks):
        return encoder(ALL, width, blocks - 1) + qkv(ALL, width) + 2 * products(ALL, width)

    return trained(to_relations(*BASE), ALL, BASE[0]) + to_relations(LARGE[0], 18)


CASES = {
    "classify": (lambda: make_classify(vit("vit_tiny"), classes=1000, mixup=0.2), (), classifier),
    "mae": (lambda: make_mae(vit("vit_tiny"), decoder="tiny"), (), mae),
    "d2": (lambda: make_d2(vit("vit_tiny"), vit("vit_base"), decoder="tiny"), (), d2),
    "tinymim": (lambda: make_tinymim(vit("vit_base", last_heads=16), vit("vit_large")), (2,), tinymim),
}


@pytest.mark.parametrize("name", CASES)
def test_a_whole_step_is_what_the_formulae_say(name):
    make, views, formula = CASES[name]
    assert counted(make(), views) == pytest.approx(formula(), rel=0.01)


def test_microbatches_count_as_often_as_they_run():
    objective = make_mae(vit("vit_tiny", depth=2), decoder="tiny")
    assert counted(objective, accumulate=4) == pytest.approx(counted(objective), rel=1e-6)


def test_recomputed_blocks_count_again():
    plain, again = (counted(make_mae(vit("vit_tiny", remat=r), decoder="tiny")) for r in (False, True))
    blocks = 12 * block(KEPT, TINY[0]) + block(ALL, 96)
    # All of a block but its last product, whose result the backward pass does not read.
    assert again - plain == pytest.approx(blocks - 12 * 8 * KEPT * TINY[0] ** 2 - 8 * ALL * 96**2, rel=0.01)


def test_loops_branches_and_dead_ends():
    square, one = shape(4, 4), 2 * 4**3

    def loop(x):
        return jax.lax.scan(lambda carry, _: (carry @ carry, None), x, None, length=7)[0]

    def branch(x):
        return jax.lax.cond(x[0, 0] > 0, lambda y: y @ y @ y, lambda y: y @ y, x)

    assert count_flops(loop, square) == 7 * one
    assert count_flops(branch, square) == 2 * one
    assert count_flops(lambda x: jax.jit(lambda y: (y @ y, y @ y @ y))(x)[0], square) == one
    assert count_flops(lambda x: jnp.einsum("bij,bkj->bik", x, x), shape(5, 3, 2)) == 5 * 2 * 3 * 3 * 2


def test_turns_that_nobody_can_count_are_an_error():
    square = shape(4, 4)

    def loop(turn):
        return lambda x: jax.lax.while_loop(lambda y: y[0, 0] > 0, turn, x)

    with pytest.raises(ValueError, match="how often a while multiplies"):
        count_flops(loop(lambda x: x @ x), square)
    assert count_flops(loop(lambda x: x - 1), square) == 0

    def kernel(x_ref, y_ref):
        y_ref[...] = x_ref[...] @ x_ref[...]

    with pytest.raises(ValueError, match="how often a pallas_call multiplies"):
        count_flops(pallas.pallas_call(kernel, out_shape=square, grid=(3,)), square)


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_and_their_gradients(groups):
    """3x3, stride 2, 16x16x4 -> 8x8x6: each of its multiply-adds is one of either gradient too."""

    def conv(x, w):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, w, (2, 2), "SAME", dimension_numbers=numbers, feature_group_count=groups
        ).sum()

    args = shape(2, 16, 16, 4), shape(3, 3, 4 // groups, 6)
    forward = 2 * (2 * 8 * 8 * 6) * (3 * 3 * 4 // groups)
    assert count_flops(conv, *args) == forward
    assert count_flops(jax.grad(conv, argnums=(0, 1)), *args) == 2 * forward
