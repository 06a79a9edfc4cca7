"""Matrix products, LayerNorm and GELU with their gradients written out.

The mathematics is the usual one; the form is what XLA for CPU needs. Left to itself it fuses the whole chain of
residual gradients, from the last block down, into each transposed copy that a weight gradient reads (MAE-Tiny's step
then takes two to three times as long), and the gradients that JAX derives for attention come out transposed (twice
the time of attention).
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax


@jax.custom_vjp
def linear(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [M,D] · kernel [D,F] -> [M,F]."""
    return x @ kernel


def _linear_fwd(x, kernel):
    return x @ kernel, (x, kernel)


def _linear_bwd(saved, g):
    x, kernel = saved
    rows = (((0,), (0,)), ((), ()))  # contracts M; XLA transposes the left operand, so let that be the narrower one
    dkernel = lax.dot_general(x, g, rows) if x.shape[1] <= g.shape[1] else lax.dot_general(g, x, rows).T
    return g @ kernel.T, dkernel


linear.defvjp(_linear_fwd, _linear_bwd)


def _batched(a: jax.Array, b: jax.Array, over_a: int, over_b: int, out: jnp.dtype | None = None) -> jax.Array:
    """The product of the last two axes of a and b, contracting `over_a` and `over_b`; all axes before are batch."""
    batch = tuple(range(a.ndim - 2))
    dims = (((a.ndim + over_a,), (b.ndim + over_b,)), (batch, batch))
    return lax.dot_general(a, b, dims, preferred_element_type=out)


@jax.custom_vjp
def products(a: jax.Array, b: jax.Array) -> jax.Array:
    """a·bᵀ: [...,M,K] and [...,N,K] -> float32 [...,M,N], whatever the type of a and b."""
    return _batched(a, b, -1, -1, jnp.float32)


def _products_fwd(a, b):
    return products(a, b), (a, b)


def _products_bwd(saved, g):
    a, b = saved
    g = g.astype(a.dtype)
    return _batched(g, b, -1, -2), _batched(g, a, -2, -2)


products.defvjp(_products_fwd, _products_bwd)


@jax.custom_vjp
def softmax(logits: jax.Array) -> jax.Array:
    """Softmax of float32 logits over the last axis."""
    shifted = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    # A reciprocal per row and a product per entry: XLA for CPU would first write out the row sums for every entry.
    return shifted * (1.0 / shifted.sum(axis=-1, keepdims=True))


def _softmax_fwd(logits):
    weights = softmax(logits)
    return weights, weights


def _softmax_bwd(weights, g):
    return (weights * (g - (weights * g).sum(axis=-1, keepdims=True)),)


softmax.defvjp(_softmax_fwd, _softmax_bwd)


@jax.custom_vjp
def mixture(logits: jax.Array, values: jax.Array) -> jax.Array:
    """softmax(logits)·values: float32 [...,M,N] and [...,N,K] -> [...,M,K] in the type of the values."""
    return _mixture_fwd(logits, values)[0]


def _mixture_fwd(logits, values):
    weights = softmax(logits).astype(values.dtype)
    out = _batched(weights, values, -1, -2)
    return out, (weights, values, out)


def _mixture_bwd(saved, g):
    weights, values, out = saved
    # The softmax's row sum of weights·gradient, N entries a row, is that of out·g, K entries (FlashAttention).
    rows = (out.astype(jnp.float32) * g.astype(jnp.float32)).sum(axis=-1, keepdims=True)
    return weights * (_batched(g, values, -1, -1, jnp.float32) - rows), _batched(weights, g, -2, -2)


mixture.defvjp(_mixture_fwd, _mixture_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float = 1e-6) -> jax.Array:
    """LN of x [M,D] over D: float32. The variance takes two passes, as PyTorch's (E[x²]-E[x]² loses digits)."""
    return _layer_norm_fwd(x, scale, bias, eps)[0]


def _layer_norm_fwd(x, scale, bias, eps):
    wide = x.astype(jnp.float32)
    mean = wide.mean(axis=-1, keepdims=True)
    inverse = lax.rsqrt(jnp.square(wide - mean).mean(axis=-1, keepdims=True) + eps)
    return (wide - mean) * inverse * scale + bias, (x, mean, inverse, scale)


def _layer_norm_bwd(eps, saved, g):
    del eps  # in `inverse`
    x, mean, inverse, scale = saved
    normed = (x.astype(jnp.float32) - mean) * inverse
    h = g * scale
    dx = inverse * (h - h.mean(axis=-1, keepdims=True) - normed * (h * normed).mean(axis=-1, keepdims=True))
    return dx.astype(x.dtype), (g * normed).sum(axis=0), g.sum(axis=0)


layer_norm.defvjp(_layer_norm_fwd, _layer_norm_bwd)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """x·Φ(x), exact: float32 inside, the type of x outside. By erf, as `jax.nn.gelu`'s erfc costs twice as much."""
    wide = x.astype(jnp.float32)
    return (wide * _normal_cdf(wide)).astype(x.dtype)


def _normal_cdf(x):
    return 0.5 + 0.5 * lax.erf(x * math.sqrt(0.5))


def _gelu_fwd(x):
    return gelu(x), x


def _gelu_bwd(x, g):
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * jnp.square(wide)) / math.sqrt(2 * math.pi)
    cdf = 1.0 - _normal_cdf(-wide)  # not the forward pass's erf: storing that costs more than computing it again
    return ((g.astype(jnp.float32) * (cdf + wide * density)).astype(x.dtype),)


gelu.defvjp(_gelu_fwd, _gelu_bwd)
