"""Encoders and decoders between data and codes: convolutional for images, MLPs for vectors.

`Encoder` and `Decoder` of the same attributes are mirrors of each other. Codes are vectors (D,) or,
of images, maps (h, w, C): `code_map` says which h and w a Config leads to. Neither ends in a
nonlinearity: what its numbers mean (means, logits, log-variances) is the model's affair.

Down, a level is a strided convolution; up, nearest-neighbour upsampling and a convolution, but for
the last level, which computes its pixels as channels at the coarser resolution: few, wide channels
are what a CPU is fast at. Sides that are no multiples are padded on the way down (28 → 14 → 7 → 4)
and cut on the way up.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp

from gengen.nn.mlp import MLP
from gengen.nn.unet import conv3x3, depth_to_space
from gengen.types import Array, InputError, Shape


class Encoder(nn.Module):
    """x [B, H, W, C] or [B, D] → [B, *code].

    Attributes:
        shape: of x: (H, W, C) or (D,).
        code: (D,), or (h, w, C) with h and w of `code_map`.
        channels: of each level of convolutions, the finest first; (): an image is a vector of
            pixels. Not used for vectors.
        strides: how many times each level divides the resolution; (): 2 each.
        blocks: residual blocks at the coarsest resolution.
        widths: hidden layers between x, or the last level, and a code (D,).
    """

    shape: Shape
    code: Shape
    channels: tuple[int, ...] = (32, 64, 128)
    strides: tuple[int, ...] = ()
    blocks: int = 0
    widths: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for features, stride in _levels(self):
            size = (2 * stride, 2 * stride) if stride > 1 else (3, 3)
            x = nn.relu(nn.Conv(features, size, (stride, stride))(x))
        if _levels(self):
            x = _residual_blocks(x, self.blocks)
        if len(self.code) == 1:
            return MLP((*self.widths, *self.code))(x.reshape(x.shape[0], -1))
        return nn.Conv(self.code[-1], (1, 1))(x)


class Decoder(nn.Module):
    """z [B, *code] → [B, *shape]. The attributes are those of `Encoder`, which it mirrors."""

    shape: Shape
    code: Shape
    channels: tuple[int, ...] = (32, 64, 128)
    strides: tuple[int, ...] = ()
    blocks: int = 0
    widths: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, z: Array) -> Array:
        levels, widths = _levels(self), self.widths[::-1]
        if not levels:
            return MLP((*widths, math.prod(self.shape)))(z).reshape(-1, *self.shape)
        sizes = _sizes(self.shape, tuple(stride for _, stride in levels))
        if len(self.code) == 1:
            (height, width), features = sizes[-1], self.channels[-1]
            z = MLP((*widths, height * width * features))(z).reshape(-1, height, width, features)
        else:
            z = conv3x3(self.channels[-1])(z)
        x = nn.relu(_residual_blocks(z, self.blocks))
        for i in range(len(levels) - 1, 0, -1):
            x = _grow(x, levels[i][1], sizes[i])
            x = nn.relu(conv3x3(self.channels[i - 1])(x))
        stride = levels[0][1]
        x = depth_to_space(conv3x3(self.shape[-1] * stride**2)(x), stride)
        return x[:, : self.shape[0], : self.shape[1]]


def code_map(shape: Shape, channels: int, levels: int = 3, strides: tuple[int, ...] = ()) -> Shape:
    """Shape (h, w, channels) of the map code of images: 32×32×3 → 4×4×16, 28×28×1 → 4×4×16.

    Args:
        shape: (H, W, C).
        channels: of the code.
        levels: how many.
        strides: of each level; (): 2 each.
    """
    return (*_sizes(shape, strides or (2,) * levels)[-1], channels)


def _sizes(shape: Shape, strides: tuple[int, ...]) -> list[tuple[int, int]]:
    """Height and width before each level, and after the last."""
    sizes = [(shape[0], shape[1])]
    for stride in strides:
        sizes.append((-(-sizes[-1][0] // stride), -(-sizes[-1][1] // stride)))
    return sizes


def _levels(net: Encoder | Decoder) -> list[tuple[int, int]]:
    """(Channels, stride) of each level; none for vectors.

    Raises:
        InputError: where the attributes do not fit each other.
    """
    if len(net.shape) == 1 or not net.channels:
        if len(net.code) != 1:
            raise InputError(f"code = {net.code}, but without convolutions a code is (D,)")
        return []
    strides = net.strides or (2,) * len(net.channels)
    if len(strides) != len(net.channels) or min(strides) < 1:
        raise InputError(
            f"strides = {net.strides}, channels = {net.channels}: give one stride ≥ 1 a level"
        )
    end = _sizes(net.shape, strides)[-1]
    if len(net.code) == 3 and tuple(net.code[:2]) != end:
        raise InputError(f"code = {net.code}, but these levels lead to {end}: see code_map")
    return list(zip(net.channels, strides, strict=True))


def _residual_blocks(x: Array, num: int) -> Array:
    """Num times x + conv(relu(conv(relu x))), starting as the identity."""
    for _ in range(num):
        h = nn.relu(conv3x3(x.shape[-1])(nn.relu(x)))
        x = x + conv3x3(x.shape[-1], zero=True)(h)
    return x


def _grow(x: Array, factor: int, size: tuple[int, int]) -> Array:
    """`factor` times the resolution, nearest neighbour, cut to `size`."""
    # As `unet.upsample`, by any factor: its gradient is a sum, not a scatter.
    x = jnp.repeat(jnp.repeat(x, factor, axis=1), factor, axis=2)
    return x[:, : size[0], : size[1]]
