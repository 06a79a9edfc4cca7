"""The hand-written gradients against PyTorch's, and the types of bfloat16 computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lvit_jax.models import ops


def draw(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


CASES = {
    "linear to more": (ops.linear, lambda x, w: x @ w, (draw(5, 6), draw(6, 9))),
    "linear to fewer": (ops.linear, lambda x, w: x @ w, (draw(5, 9), draw(9, 4))),
    "layer_norm": (
        ops.layer_norm,
        lambda x, s, b: F.layer_norm(x, x.shape[-1:], s, b, 1e-6),
        (draw(5, 8) * 3 + 100, draw(8), draw(8) + 1),
    ),
    "layer_norm of nearly constant rows": (
        lambda x, s, b: ops.layer_norm(x, s, b, 1e-2),
        lambda x, s, b: F.layer_norm(x, x.shape[-1:], s, b, 1e-2),
        (draw(5, 8) * 0.1, draw(8), draw(8) + 1),
    ),
    "products": (ops.products, lambda a, b: a @ b.transpose(-1, -2), (draw(2, 3, 5, 4), draw(2, 3, 7, 4))),
    "softmax": (ops.softmax, lambda x: x.softmax(-1), (draw(2, 5, 7) * 4,)),
    "mixture": (ops.mixture, lambda x, v: x.softmax(-1) @ v, (draw(2, 3, 5, 7) * 4, draw(2, 3, 7, 4))),
    "gelu": (ops.gelu, F.gelu, (np.linspace(-9, 9, 200, dtype=np.float32).reshape(10, 20),)),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_equal_torchs(name):
    ours, theirs, inputs = CASES[name]
    leaves = [torch.tensor(x, requires_grad=True) for x in inputs]
    expected = theirs(*leaves)
    cotangent = draw(*expected.shape)
    value, pull = jax.vjp(ours, *inputs)
    np.testing.assert_allclose(value, expected.detach(), rtol=1e-4, atol=1e-5)
    grads = torch.autograd.grad(expected, leaves, torch.tensor(cotangent))
    for a, b in zip(pull(jnp.asarray(cotangent)), grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_types():
    x, kernel, ones = jnp.ones((2, 4), jnp.bfloat16), jnp.ones((4, 3), jnp.bfloat16), jnp.ones(4)
    assert ops.linear(x, kernel).dtype == ops.gelu(x).dtype == jnp.bfloat16
    value, pull = jax.vjp(ops.layer_norm, x, ones, ones)
    assert value.dtype == jnp.float32  # until the caller rounds it
    assert [g.dtype for g in pull(value)] == [jnp.bfloat16, jnp.float32, jnp.float32]
