"""Convolutional networks between images and vectors."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from gengen.nn.norm import batch_norm
from gengen.nn.unet import upsample
from gengen.types import LAYOUT, Array, InputError, Shape


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
    """z [B, D] → images [B, *shape] in [-1, 1]: dense, then up through the levels; tanh at the end.

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
        for features in self.channels[1:]:  # batch norm takes away what a bias before it adds
            x = upsample(nn.relu(batch_norm(train)(x)))
            x = nn.Conv(features, (3, 3), use_bias=False)(x)
        x = upsample(nn.relu(batch_norm(train)(x)))
        return nn.tanh(nn.Conv(out, (3, 3))(x))


class ConvTranspose(nn.Module):
    """A fractionally strided convolution, [B, H, W, C] → [B, sH, sW, features], as Flax's own.

    What is its own is the gradient: XLA's of the kernel is ten times slower on CPU.

    Attributes:
        features: output channels.
        kernel_size: rows, columns.
        strides: s of each side.
        padding: "SAME"; or "VALID", which makes sides (H - 1) s + the kernel's.
        use_bias: whether a bias is added.
        kernel_init: of the kernel.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: str = "SAME"
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()  # noqa: RUF009

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param(
            "kernel", self.kernel_init, (*self.kernel_size, x.shape[-1], self.features)
        )
        x = conv_transpose(x, jnp.asarray(kernel), self.strides, self.padding)
        if self.use_bias:
            x = x + self.param("bias", nn.initializers.zeros, (self.features,))
        return x


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv_transpose(x: Array, kernel: Array, strides: tuple[int, int], padding: str) -> Array:
    """As `jax.lax.conv_transpose`, of x [B, H, W, C] and kernel [h, w, C, F]."""
    if x.shape[1:3] == (1, 1) and padding == "VALID":  # one pixel times each of the kernel's
        return jnp.einsum("bc,hwcf->bhwf", x[:, 0, 0], kernel[::-1, ::-1])
    return jax.lax.conv_transpose(x, kernel, strides, padding, dimension_numbers=LAYOUT)


def _forward(x: Array, kernel: Array, strides: tuple[int, int], padding: str):
    return conv_transpose(x, kernel, strides, padding), (x, kernel)


def _backward(strides: tuple[int, int], padding: str, kept: tuple[Array, Array], dy: Array):
    # y = Aᵀx for the strided convolution A by the turned kernel: ∂x = A dy, and ∂kernel is A's own
    # gradient, with x as what comes back of it.
    x, kernel = kept
    turned = kernel[::-1, ::-1].swapaxes(2, 3)

    def convolved(turned: Array) -> Array:
        return jax.lax.conv_general_dilated(dy, turned, strides, padding, dimension_numbers=LAYOUT)

    dx, pull = jax.vjp(convolved, turned)
    return dx, pull(x)[0].swapaxes(2, 3)[::-1, ::-1]


conv_transpose.defvjp(_forward, _backward)
