"""Networks that translate images, and PatchGAN, for pix2pix and CycleGAN.

Isola et al. 2017 (1611.07004, §6.1) and Zhu et al. 2017 (1703.10593, §7.2). In both papers batches
have one image and no running averages are used, so that batch norm is instance norm: here each
image is normalised by itself, whatever the batch size. Weights begin as N(0, 0.02²). Convolutions
before a norm have no bias: the norm takes it away, and Adam would only move it at random.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gengen import rng
from gengen.gan.networks import levels
from gengen.nn.conv import ConvTranspose
from gengen.types import Array, Batch, InputError, Shape, check_shape

INIT = nn.initializers.normal(0.02)
KERNEL = 4  # side of the windows of U-Net and PatchGAN
DROPPED = 3  # levels of the U-Net's way up with dropout, the coarsest first
PLANES = ((0, 0), (1, 1), (1, 1), (0, 0))  # a border of one pixel
NEAR = 0.98  # the residual generator begins as x ↦ NEAR · x


class InstanceNorm(nn.Module):
    """Bring each channel of each image of x [B, H, W, C] to mean 0 and variance 1.

    Attributes:
        affine: whether a scale and a shift of each channel follow, which are learnt.
        epsilon: added to the variance.
    """

    affine: bool = False
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array) -> Array:
        mean = x.mean((1, 2), keepdims=True)
        variance = ((x - mean) ** 2).mean((1, 2), keepdims=True)
        x = (x - mean) * jax.lax.rsqrt(variance + self.epsilon)
        if self.affine:
            x = x * self.param("scale", nn.initializers.ones, (x.shape[-1],))
            x = x + self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return x


def convolution(features: int, kernel: int, stride: int = 1, bias: bool = True) -> nn.Conv:
    """Return a convolution with half a window of zeros around, rounded down."""
    pad = (kernel - 1) // 2
    return nn.Conv(
        features, (kernel, kernel), (stride, stride), padding=((pad, pad), (pad, pad)),
        use_bias=bias, kernel_init=INIT,
    )  # fmt: skip


def drop(x: Array, rate: float, key: Array) -> Array:
    """Set numbers of x [B, ...] to 0 with a probability, and scale up the others."""
    return jnp.where(rng.uniform(key, x.shape) < rate, 0.0, x / (1 - rate))


class UNet(nn.Module):
    """x [B, H, W, C] → [B, H, W, out] in [-1, 1], with noise by dropout.

    A level of the way down is LeakyReLU 0.2, a strided convolution and a norm, one of the way up
    ReLU, a fractionally strided convolution, a norm and dropout. The last level of the way down has
    no norm, so that it may have a single pixel.

    Attributes:
        out: output channels.
        channels: of each level, the finest first; each halves the resolution.
        dropout: rate, also when the trained network is applied.
        skip: whether the way down is concatenated to the way up; False: an encoder–decoder.
    """

    out: int
    channels: tuple[int, ...]
    dropout: float = 0.5
    skip: bool = True

    @nn.compact
    def __call__(self, x: Array, key: Array | None = None) -> Array:
        """Translate x; key: of dropout, None: without."""
        skips, last = [], len(self.channels) - 1
        for i, features in enumerate(self.channels):
            x = x if i == 0 else nn.leaky_relu(x, 0.2)
            x = convolution(features, KERNEL, 2, bias=False)(x)
            x = InstanceNorm(affine=True)(x) if 0 < i < last else x
            skips.append(x)
        for up, i in enumerate(reversed(range(last + 1))):
            if self.skip and up:
                x = jnp.concatenate([x, skips[i]], axis=-1)
            features = self.channels[i - 1] if i else self.out
            x = ConvTranspose(
                features, (KERNEL, KERNEL), (2, 2), use_bias=i == 0, kernel_init=INIT
            )(nn.relu(x))
            if i:
                x = InstanceNorm(affine=True)(x)
                if key is not None and self.dropout and up < DROPPED:
                    x = drop(x, self.dropout, jax.random.fold_in(key, up))
        return nn.tanh(x)


class ResNet(nn.Module):
    """x [B, H, W, C] → [B, H, W, out] in [-1, 1]: down, residual blocks, up again.

    Attributes:
        out: output channels.
        channels: of each level, the finest first; each but the first halves the resolution.
        num_blocks: residual blocks at the coarsest level.
        residual: whether x is added before the last tanh, so that the network begins near the
            identity; x must have `out` channels.
    """

    out: int
    channels: tuple[int, ...]
    num_blocks: int
    residual: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        start, norm = x, lambda x: nn.relu(InstanceNorm()(x))
        x = norm(mirrored(x, self.channels[0], 7))
        for features in self.channels[1:]:
            x = norm(convolution(features, 3, 2, bias=False)(x))
        for _ in range(self.num_blocks):
            h = norm(mirrored(x, self.channels[-1], 3))
            x = x + InstanceNorm()(mirrored(h, self.channels[-1], 3))
        for features in self.channels[-2::-1]:
            x = norm(ConvTranspose(features, (3, 3), (2, 2), use_bias=False, kernel_init=INIT)(x))
        last = nn.initializers.normal(0.002) if self.residual else INIT
        x = mirrored(x, self.out, 7, use_bias=True, kernel_init=last)
        return nn.tanh(x + jnp.arctanh(NEAR * start) if self.residual else x)


def mirrored(
    x: Array, features: int, kernel: int, use_bias: bool = False, kernel_init: Any = INIT
) -> Array:
    """Convolve x, with its mirror image around it: [B, H, W, C] → [B, H, W, features]."""
    pad = (kernel // 2, kernel // 2)
    x = jnp.pad(x, ((0, 0), pad, pad, (0, 0)), mode="reflect")
    conv = nn.Conv(
        features, (kernel, kernel), padding="VALID", use_bias=use_bias, kernel_init=kernel_init
    )
    return conv(x)


class PatchGAN(nn.Module):
    """Images [B, H, W, C] → logits [B, h, w], each of a patch that overlaps with others.

    Attributes:
        channels: of each level, the finest first; each but the last halves the resolution.
        affine: whether norms have a scale and a shift.
    """

    channels: tuple[int, ...]
    affine: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i, features in enumerate(self.channels):
            stride = 1 if i == len(self.channels) - 1 else 2
            x = convolution(features, KERNEL, stride, bias=i == 0)(x)
            x = InstanceNorm(self.affine)(x) if i else x
            x = nn.leaky_relu(x, 0.2)
        return convolution(1, KERNEL)(x)[..., 0]


def receptive_field(channels: tuple[int, ...]) -> int:
    """Return the side of the patch that a logit of `PatchGAN` depends on, in pixels."""
    strides = [2] * (len(channels) - 1) + [1, 1]
    side = 1
    for stride in reversed(strides):
        side = (side - 1) * stride + KERNEL
    return side


# --- Configs and batches -------------------------------------------------------------------------


def check_images(shape: Shape, second: Shape, name: str, factor: int) -> None:
    """Check the shapes of both kinds of images.

    Args:
        shape: Config.shape.
        second: of the other kind.
        name: of its field.
        factor: that the sides must be multiples of.

    Raises:
        InputError: for vectors, sizes that differ, or that cannot be halved as often.
    """
    if len(shape) != 3 or len(second) != 3 or shape[:2] != second[:2]:
        raise InputError(
            f"Config.shape = {shape} and {name} = {second}; they must be (H, W, C) of one size: "
            "pass --size"
        )
    if shape[0] % factor or shape[1] % factor:
        raise InputError(
            f"Config.shape = {shape}; its sides must be multiples of {factor}, or Config.channels "
            "shorter"
        )


def small_levels(shape: Shape, first: int) -> tuple[int, ...]:
    """Return the channels of each level for images that a laptop trains on.

    Raises:
        InputError: for images whose sides cannot be halved.
    """
    found = levels(shape, first) if len(shape) == 3 else ()
    if not found:
        raise InputError(f"examples of {shape}; they must be images with even sides: pass --size")
    return found


def images_of(batch: Batch, shape: Shape, name: str, second: Shape) -> tuple[Array, Array]:
    """Return the images of both kinds of a batch.

    Args:
        batch: with "image", and `name`.
        shape: of "image".
        name: "target" or "other".
        second: its shape.

    Raises:
        InputError: if a kind is missing, or has another shape.
    """
    x = check_shape(batch, shape)
    if name not in batch:
        cure = "pairs:A,B or edges:DATA" if name == "target" else "unpaired:A,B"
        raise InputError(f'a batch has {sorted(batch)} and no "{name}": use data such as {cure}')
    y = jnp.asarray(batch[name])
    if tuple(y.shape[1:]) != tuple(second):
        raise InputError(
            f'"{name}" has shape {tuple(y.shape[1:])}, but Config.{name}_shape is {tuple(second)}'
        )
    return x, y


def images_in(x: Any, shape: Shape) -> Array:
    """Return images to translate, float32 [B, *shape].

    Raises:
        InputError: for another shape.
    """
    x = jnp.asarray(x, jnp.float32)
    if tuple(x.shape[1:]) != tuple(shape):
        wanted = ", ".join(map(str, shape))
        raise InputError(f"images are {list(x.shape)}; they must be [B, {wanted}]")
    return x
