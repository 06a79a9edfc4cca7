"""RegNetY (arXiv:2003.13678) as timm builds it: a frozen convolutional teacher (recipes 5.4: regnety_160).

Forward only: every BatchNorm is folded into its convolution when the weights are imported, so that nothing here can
be trained.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lvit_jax.errors import InputError, unknown
from lvit_jax.models import ENCODERS
from lvit_jax.models.features import Features
from lvit_jax.models.vit import DTYPES


class Conv(nn.Module):
    """A convolution with bias, padded as torch's `padding=kernel // 2`."""

    features: int
    kernel: int
    dtype: jnp.dtype
    stride: int = 1
    groups: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B,H,W,C] -> [B,H/stride,W/stride,features]."""
        shape = (self.kernel, self.kernel, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        pad = (self.kernel // 2, self.kernel // 2)
        dims = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(
            x, kernel, (self.stride,) * 2, (pad, pad), dimension_numbers=dims, feature_group_count=self.groups
        )
        return x + bias


class Bottleneck(nn.Module):
    """1x1, grouped 3x3, squeeze and excitation, 1x1; the shortcut is a 1x1 where the shape changes."""

    features: int
    stride: int
    group_width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B,H,W,C] -> [B,H/stride,W/stride,features]."""
        short, groups, squeezed = x, self.features // self.group_width, round(x.shape[-1] / 4)
        if x.shape[-1] != self.features or self.stride > 1:
            short = Conv(self.features, 1, self.dtype, self.stride, name="downsample")(x)
        x = nn.relu(Conv(self.features, 1, self.dtype, name="conv1")(x))
        x = nn.relu(Conv(self.features, 3, self.dtype, self.stride, groups, name="conv2")(x))
        gate = nn.relu(Conv(squeezed, 1, self.dtype, name="se_fc1")(x.mean(axis=(1, 2), keepdims=True)))
        x = x * nn.sigmoid(Conv(self.features, 1, self.dtype, name="se_fc2")(gate))
        return nn.relu(Conv(self.features, 1, self.dtype, name="conv3")(x) + short)


class RegNet(nn.Module):
    """Images -> Features of the last map, without CLS; the head that reads them has no norm."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    group_width: int
    channels: int = 3
    dtype: str = "bfloat16"
    final_norm: bool = False  # it has none; `classifier` says so to every encoder
    norm_eps: float = 1e-5

    @nn.compact
    def __call__(self, images: jax.Array, keep: jax.Array | None = None, *, train: bool = False) -> Features:
        """images float [B,H,W,C] -> Features with tokens [B,H/32·W/32,D].

        Raises:
          InputError: patches to keep, or another number of channels.
        """
        if keep is not None:
            raise InputError("a RegNet takes whole images: it can teach classifiers only")
        if images.shape[-1] != self.channels:
            raise InputError(f"the model takes {self.channels} channels, the images have {images.shape[-1]}")
        dtype = jnp.dtype(self.dtype)
        x = nn.relu(Conv(32, 3, dtype, 2, name="stem")(images.astype(dtype)))
        for stage, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True), start=1):
            for block in range(1, depth + 1):
                stride = 2 if block == 1 else 1
                x = Bottleneck(width, stride, self.group_width, dtype, name=f"stage_{stage}_block_{block}")(x)
        return Features(tokens=x.reshape(len(x), -1, x.shape[-1]), blocks=(), grid=x.shape[1:3], prefix=0)

    @property
    def depth(self) -> int:
        """Raises: InputError, since it is not trained."""
        raise InputError("a RegNet is a frozen teacher of classifiers (--config.init.teacher) and nothing else")


def regnet(name: str, *, channels: int = 3, dtype: str = "bfloat16") -> RegNet:
    """The `model` section of imported weights -> encoder.

    Args:
      name: a size of `models.ENCODERS`.
      channels, dtype: as in `models.vit.vit`.

    Raises:
      InputError: an unknown type.
    """
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    return RegNet(**ENCODERS[name][1], channels=channels, dtype=dtype)
