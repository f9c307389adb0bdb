"""Convolutional networks between images and vectors."""

from __future__ import annotations

import flax.linen as nn

from gengen.nn.norm import batch_norm
from gengen.nn.unet import upsample
from gengen.types import Array, InputError, Shape


class ConvEncoder(nn.Module):
    """x [B, H, W, C] → [B, out]: a strided 4×4 convolution and LeakyReLU 0.2 a level, then dense.

    Attributes:
        out: outputs.
        channels: of each level; each halves the resolution.
    """

    out: int
    channels: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for features in self.channels:
            x = nn.leaky_relu(nn.Conv(features, (4, 4), (2, 2))(x), 0.2)
        return nn.Dense(self.out)(x.reshape(x.shape[0], -1))


class ConvDecoder(nn.Module):
    """z [B, D] → images in [-1, 1] [B, *shape]: dense, then up through the levels; tanh at the end.

    A level is batch norm, ReLU, twice the resolution, 3×3 convolution: transposed convolutions,
    the paper's way, are slow on CPU and leave a checkerboard.

    Attributes:
        shape: of an image.
        channels: of each level, the coarsest first; the level's end has twice its resolution.
    """

    shape: Shape
    channels: tuple[int, ...]

    @nn.compact
    def __call__(self, z: Array, train: bool = False) -> Array:
        height, width, out = self.shape
        factor = 2 ** len(self.channels)
        if height % factor or width % factor:
            raise InputError(
                f"a {height}×{width} image cannot be halved {len(self.channels)} times: its sides "
                f"must be multiples of {factor}, or Config.channels shorter"
            )
        x = nn.Dense(height * width // factor**2 * self.channels[0])(z)
        x = x.reshape(z.shape[0], height // factor, width // factor, self.channels[0])
        for features in (*self.channels[1:], out):
            x = upsample(nn.relu(batch_norm(train)(x)))
            x = nn.Conv(features, (3, 3))(x)
        return nn.tanh(x)
