"""Heads of contrastive methods: perceptrons with BatchNorm over the global batch (MoCo-v3, arXiv:2104.02057)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lvit_jax.models.layers import torch_uniform


class BatchNorm(nn.Module):
    """PyTorch's BatchNorm1d: the biased variance normalises, the running one is unbiased.

    Written for the global batch: under `jit` the mean over axis 0 of a sharded batch is that of all devices.
    Running statistics are the collection "batch_stats" {mean, var}.
    """

    affine: bool = True
    momentum: float = 0.1  # share of the new statistics
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B,D] -> float32 [B,D]; by the statistics of the batch in training, else by the running ones."""
        x, width = x.astype(jnp.float32), x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (width,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (width,))
        mean, var = running_mean.value, running_var.value
        if train:
            mean, var = x.mean(axis=0), x.var(axis=0)
        if train and not self.is_initializing():
            unbiased = var * (len(x) / max(len(x) - 1, 1))
            running_mean.value += self.momentum * (mean - running_mean.value)
            running_var.value += self.momentum * (unbiased - running_var.value)
        y = (x - mean) * jax.lax.rsqrt(var + self.eps)
        if not self.affine:
            return y
        scale = self.param("scale", nn.initializers.ones, (width,))
        return y * scale + self.param("bias", nn.initializers.zeros, (width,))


class Perceptron(nn.Module):
    """Linears without bias, each followed by BatchNorm; ReLU between them, and a last BatchNorm without affine map."""

    widths: tuple[int, ...]  # of the layers' outputs
    dtype: str  # of the Linears; the norms are float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B,D] -> float32 [B,widths[-1]]."""
        for i, width in enumerate(self.widths):
            last = i == len(self.widths) - 1
            start = torch_uniform(x.shape[-1])  # which MoCo-v3 leaves as it is in its heads
            fc = nn.Dense(width, use_bias=False, kernel_init=start, dtype=jnp.dtype(self.dtype), name=f"fc_{i}")
            x = BatchNorm(affine=not last, name=f"norm_{i}")(fc(x), train)
            x = x if last else nn.relu(x)
        return x


def projector(hidden: int, dim: int, dtype: str) -> Perceptron:
    """MoCo-v3's three layers D -> hidden -> hidden -> dim."""
    return Perceptron((hidden, hidden, dim), dtype)


def predictor(hidden: int, dim: int, dtype: str) -> Perceptron:
    """MoCo-v3's two layers dim -> hidden -> dim."""
    return Perceptron((hidden, dim), dtype)
