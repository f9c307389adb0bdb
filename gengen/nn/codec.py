"""Encoders and decoders between data and latents: convolutional for images, MLPs for vectors.

`Encoder` and `Decoder` with the same attributes are mirrors of each other. Latents are vectors (D,)
or, for images, maps (h, w, C); `code_map` returns the h and w of given levels. The last layer of
both is affine: the model says what its outputs mean (means, logits, log-variances).

A level of the encoder is a strided convolution. A level of the decoder is nearest-neighbour
upsampling and a convolution, except for the last one, which computes pixels as channels at the
coarser resolution: a CPU is fast at few, wide channels. Sides that are not multiples of the stride
are padded by the encoder (28 → 14 → 7 → 4) and cropped by the decoder.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp

from gengen.nn.conv import ConvTranspose
from gengen.nn.mirror import ACTIVATIONS
from gengen.nn.mlp import MLP
from gengen.nn.unet import conv3x3, depth_to_space
from gengen.types import Array, InputError, Shape


class Encoder(nn.Module):
    """x [B, H, W, C] or [B, D] → [B, *latent_shape].

    Attributes:
        shape: of x: (H, W, C) or (D,).
        latent_shape: (D,), or (h, w, C) with h and w of `code_map`.
        channels: of each level of convolutions, the finest first; (): an image is a vector of
            pixels. Not used for vectors.
        strides: of each level; (): 2 each.
        num_blocks: residual blocks at the coarsest resolution.
        hidden: sizes of the hidden layers between x, or the last level, and a latent vector.
        activation: of these layers: see `MLP`.
        init_std: of these layers: see `MLP`.
        residual_kernel_size: side of the second convolution of a residual block.
        transposed: whether the decoder grows by transposed convolutions, of the encoder's sizes.
        kernel_size: side of the levels' windows; 0: twice the stride, and 3 where a level is not
            strided.
        level_activation: of the levels, a name of `ACTIVATIONS`.
    """

    shape: Shape
    latent_shape: Shape
    channels: tuple[int, ...] = (32, 64, 128)
    strides: tuple[int, ...] = ()
    num_blocks: int = 0
    hidden: tuple[int, ...] = ()
    activation: str = "relu"
    init_std: float = 0.0
    residual_kernel_size: int = 3
    transposed: bool = False
    kernel_size: int = 0
    level_activation: str = "relu"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for features, stride in _levels(self):
            conv = nn.Conv(features, *_window(stride, self.kernel_size))
            x = ACTIVATIONS[self.level_activation](conv(x))
        if _levels(self):
            x = _residual_blocks(x, self.num_blocks, self.residual_kernel_size)
        if len(self.latent_shape) == 1:
            mlp = MLP((*self.hidden, *self.latent_shape), self.activation, self.init_std)
            return mlp(x.reshape(x.shape[0], -1))
        return nn.Conv(self.latent_shape[-1], (1, 1))(x)


class Decoder(nn.Module):
    """z [B, *latent_shape] → [B, *shape]. The attributes are those of `Encoder`, its mirror."""

    shape: Shape
    latent_shape: Shape
    channels: tuple[int, ...] = (32, 64, 128)
    strides: tuple[int, ...] = ()
    num_blocks: int = 0
    hidden: tuple[int, ...] = ()
    activation: str = "relu"
    init_std: float = 0.0
    residual_kernel_size: int = 3
    transposed: bool = False
    kernel_size: int = 0
    level_activation: str = "relu"

    @nn.compact
    def __call__(self, z: Array) -> Array:
        levels, hidden = _levels(self), self.hidden[::-1]
        style, act = (self.activation, self.init_std), ACTIVATIONS[self.level_activation]
        size = self.kernel_size or 3
        if not levels:
            return MLP((*hidden, math.prod(self.shape)), *style)(z).reshape(-1, *self.shape)
        sizes = _sizes(self.shape, tuple(stride for _, stride in levels))
        if len(self.latent_shape) == 1:
            (height, width), features = sizes[-1], self.channels[-1]
            z = MLP((*hidden, height * width * features), *style)(z)
            z = z.reshape(-1, height, width, features)
        else:
            z = _conv(self.channels[-1], size)(z)
        x = act(_residual_blocks(z, self.num_blocks, self.residual_kernel_size))
        if self.transposed:
            for i in range(len(levels) - 1, -1, -1):
                features = self.channels[i - 1] if i else self.shape[-1]
                x = ConvTranspose(features, *_window(levels[i][1], self.kernel_size))(x)
                x = x[:, : sizes[i][0], : sizes[i][1]]
                x = act(x) if i else x
            return x
        for i in range(len(levels) - 1, 0, -1):
            x = _grow(x, levels[i][1], sizes[i])
            x = act(_conv(self.channels[i - 1], size)(x))
        stride = levels[0][1]
        x = depth_to_space(_conv(self.shape[-1] * stride**2, size)(x), stride)
        return x[:, : self.shape[0], : self.shape[1]]


def code_map(shape: Shape, channels: int, levels: int = 3, strides: tuple[int, ...] = ()) -> Shape:
    """Return the shape (h, w, channels) of an image's latent map: 32×32×3 → 4×4×16.

    Args:
        shape: (H, W, C).
        channels: of the latent map.
        levels: number of levels.
        strides: of each level; (): 2 each.
    """
    return (*_sizes(shape, strides or (2,) * levels)[-1], channels)


def _sizes(shape: Shape, strides: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return height and width before each level, and after the last."""
    sizes = [(shape[0], shape[1])]
    for stride in strides:
        sizes.append((-(-sizes[-1][0] // stride), -(-sizes[-1][1] // stride)))
    return sizes


def _levels(net: Encoder | Decoder) -> list[tuple[int, int]]:
    """Return (channels, stride) of each level; none for vectors.

    Raises:
        InputError: if the attributes do not fit each other.
    """
    if len(net.shape) == 1 or not net.channels:
        if len(net.latent_shape) != 1:
            raise InputError(
                f"latent_shape = {net.latent_shape}; without convolutions it must be (D,)"
            )
        return []
    strides = net.strides or (2,) * len(net.channels)
    if len(strides) != len(net.channels) or min(strides) < 1:
        raise InputError(
            f"strides = {net.strides}, channels = {net.channels}; give one stride ≥ 1 per level"
        )
    end = _sizes(net.shape, strides)[-1]
    if len(net.latent_shape) == 3 and tuple(net.latent_shape[:2]) != end:
        raise InputError(
            f"latent_shape = {net.latent_shape}; these levels lead to {(*end, 'C')}, see code_map"
        )
    return list(zip(net.channels, strides, strict=True))


def _window(stride: int, size: int = 0) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return kernel size and strides of a level's convolution."""
    size = size or (2 * stride if stride > 1 else 3)
    return (size, size), (stride, stride)


def _residual_blocks(x: Array, num: int, size: int) -> Array:
    """Apply x + conv(relu(conv(relu x))) `num` times, initially the identity.

    The second convolution's window is size × size.
    """
    features = x.shape[-1]
    for _ in range(num):
        h = nn.relu(conv3x3(features)(nn.relu(x)))
        x = x + _conv(features, size, zero=True)(h)
    return x


def _conv(features: int, size: int, zero: bool = False) -> nn.Conv:
    """Return a convolution that keeps the resolution."""
    if size == 3:
        return conv3x3(features, zero=zero)
    init = nn.initializers.zeros if zero else nn.initializers.lecun_normal()
    return nn.Conv(features, (size, size), kernel_init=init)


def _grow(x: Array, factor: int, size: tuple[int, int]) -> Array:
    """Upsample by `factor`, nearest neighbour, cropped to `size`."""
    # As `unet.upsample`, by any factor: its gradient is a sum, not a scatter.
    x = jnp.repeat(jnp.repeat(x, factor, axis=1), factor, axis=2)
    return x[:, : size[0], : size[1]]
