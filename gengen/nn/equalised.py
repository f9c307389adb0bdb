r"""Layers with an equalised learning rate, and pixel norm.

Karras et al. 2018 (1710.10196, §4). Weights are initialised as w ~ N(0, 1) and used as c·w, with
He's constant

    c = gain / √fan_in,    gain = √2 before a LeakyReLU, 1 in linear layers

Adam's steps have the size of the learning rate whatever the scale of a gradient. If all weights
have the same scale, all of them learn at the same speed.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from gengen.types import LAYOUT, Array

EPSILON = 1e-8  # under the root of pixel norm
GAIN = math.sqrt(2)  # before a LeakyReLU


def pixel_norm(x: Array, epsilon: float = EPSILON) -> Array:
    """Return x [..., C] / √(mean of x² over the channels + ε)."""
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + epsilon)


class EqualisedConv(nn.Module):
    """A convolution that keeps the resolution: [B, H, W, C] → [B, H, W, features].

    Attributes:
        features: output channels.
        kernel_size: rows, columns.
        gain: factor of He's constant.
        dtype: to compute in; None: that of x.
    """

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    gain: float = GAIN
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        kernel = kernel * (self.gain / math.sqrt(math.prod(shape[:-1])))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        out = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=LAYOUT)
        return out + bias


class EqualisedDense(nn.Module):
    """A dense layer, of images a 1×1 convolution: [..., C] → [..., features].

    Attributes:
        features: outputs.
        gain: factor of He's constant.
        dtype: to compute in; None: that of x.
    """

    features: int
    gain: float = GAIN
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", nn.initializers.normal(1.0), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        kernel = kernel * (self.gain / math.sqrt(x.shape[-1]))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return x @ kernel + bias
