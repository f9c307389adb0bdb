"""The U-Net of diffusion models: Ho et al. 2020 (2006.11239, appendix B)."""

from __future__ import annotations

import itertools

import flax.linen as nn
import jax.numpy as jnp

from gengen.nn.embedding import sinusoidal
from gengen.nn.norm import GroupNorm
from gengen.types import Array, InputError
from gengen.xla.winograd import conv_general_dilated


class UNet(nn.Module):
    """(x [B, H, W, C], t [B], perhaps y [B, K]) → [B, H, W, out].

    Down through the levels, each at half the resolution of the one above, and up again; what the
    last block of a level gives on the way down is concatenated to the input of its first block on
    the way up. (The paper concatenates after every block: nearly twice the work at equal widths.)

    Attributes:
        out: output channels.
        channels: of each level, the finest first.
        num_blocks: residual blocks of each level, on the way down and again on the way up; the
            last level has no way up.
        attention: resolutions (heights, in pixels of the *image*) with self-attention.
        num_heads: of attention.
        num_groups: of group normalisation; divides every number of channels.
        dropout: rate inside the residual blocks, in [0, 1).
        patch: pixels of a side that are folded into channels before the first convolution. With
            few, wide channels CPUs and accelerators run nearer to their peak.
        remat: keep no block's inner activations for the gradient, but compute them again: a third
            more work for a fraction of the memory. The parameters are the same.
    """

    out: int
    channels: tuple[int, ...] = (64, 128)
    num_blocks: tuple[int, ...] = (1, 2)
    attention: tuple[int, ...] = ()
    num_heads: int = 4
    num_groups: int = 8
    dropout: float = 0.0
    patch: int = 1
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, t: Array, train: bool = False, y: Array | None = None) -> Array:
        time = TimeEmbedding(2 * self.channels[0])(t)
        if y is not None:  # one-hot of a class, or any other vector: enters where the time does
            time = time + nn.Dense(2 * self.channels[0], use_bias=False, name="condition")(y)
        number, attending = itertools.count(), itertools.count()
        # Named, since the class that remat makes would name its parameters otherwise.
        block = nn.remat(ResidualBlock, static_argnums=(3,)) if self.remat else ResidualBlock
        attend = nn.remat(AttentionBlock) if self.remat else AttentionBlock

        def level(h: Array, i: int) -> Array:
            for _ in range(self.num_blocks[i]):
                shape = (self.channels[i], self.num_groups, self.dropout)
                h = block(*shape, name=f"ResidualBlock_{next(number)}")(h, time, train)
                if h.shape[1] * self.patch in self.attention:
                    name = f"AttentionBlock_{next(attending)}"
                    h = attend(self.num_heads, self.num_groups, name=name)(h)
            return h

        h = conv3x3(self.channels[0])(space_to_depth(x, self.patch))
        # Where in the image a patch lies; the zeros around it tell that only near the border.
        h = h + self.param("position", nn.initializers.normal(0.02), h.shape[1:]).astype(h.dtype)
        skips, last = [], len(self.channels) - 1
        for i in range(last):
            h = level(h, i)
            skips.append(h)
            h = conv3x3(self.channels[i + 1], stride=2)(h)
        h = level(h, last)
        for i in reversed(range(last)):
            skip = skips.pop()
            h = nn.Dense(self.channels[i])(h)  # before, not after, it grows
            h = upsample(h)[:, : skip.shape[1], : skip.shape[2]]  # 7 was halved to 4
            h = level(jnp.concatenate([h, skip], axis=-1), i)
        h = nn.swish(GroupNorm(self.num_groups)(h))
        out = conv3x3(self.out * self.patch**2, zero=True)(h)
        return depth_to_space(out.astype(jnp.float32), self.patch)


class TimeEmbedding(nn.Module):
    """t [B] → [B, features], through sines, cosines and two dense layers."""

    features: int

    @nn.compact
    def __call__(self, t: Array) -> Array:
        h = nn.Dense(self.features)(sinusoidal(t, self.features))
        return nn.swish(nn.Dense(self.features)(nn.swish(h)))


class ResidualBlock(nn.Module):
    """Norm, swish, convolution, twice; the time enters between them as a scale and a shift."""

    features: int
    num_groups: int
    dropout: float

    @nn.compact
    def __call__(self, x: Array, time: Array, train: bool) -> Array:
        h = conv3x3(self.features)(nn.swish(GroupNorm(self.num_groups)(x)))
        modulation = nn.Dense(2 * self.features)(time)
        h = nn.swish(GroupNorm(self.num_groups)(h, modulation))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        # Zeros: each block starts as the identity.
        h = conv3x3(self.features, zero=True)(h)
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features)(x)
        return x + h


class AttentionBlock(nn.Module):
    """Self-attention over the positions of x [B, H, W, C], added to it."""

    num_heads: int
    num_groups: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, height, width, channels = x.shape
        if channels % self.num_heads:
            raise InputError(f"{channels} channels cannot be shared by {self.num_heads} heads")
        h = GroupNorm(self.num_groups)(x).reshape(batch, height * width, channels)
        attend = nn.MultiHeadDotProductAttention(
            self.num_heads, out_kernel_init=nn.initializers.zeros
        )
        return x + attend(h).reshape(x.shape)


def conv3x3(features: int, stride: int = 1, zero: bool = False) -> nn.Conv:
    """A 3×3 convolution that keeps the resolution (or divides it by `stride`)."""
    init = nn.initializers.zeros if zero else nn.initializers.lecun_normal()
    strides = (stride, stride)
    return nn.Conv(
        features, (3, 3), strides, kernel_init=init, conv_general_dilated=conv_general_dilated
    )


def upsample(x: Array) -> Array:
    """Twice the resolution, nearest neighbour: [B, H, W, C] → [B, 2H, 2W, C]."""
    # `jax.image.resize` has a scatter for a gradient: 50 times slower on CPU.
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def mean_pool(x: Array, factor: int = 2) -> Array:
    """Means of squares of factor² pixels: [B, H, W, C] → [B, H/factor, W/factor, C]."""
    b, h, w, c = x.shape
    return x.reshape(b, h // factor, factor, w // factor, factor, c).mean((2, 4))


def space_to_depth(x: Array, patch: int) -> Array:
    """Fold patches into channels: [B, H, W, C] → [B, H/p, W/p, p² C]."""
    b, h, w, c = x.shape
    if h % patch or w % patch:
        raise InputError(f"a {h}×{w} image cannot be cut into patches of {patch}×{patch} pixels")
    x = x.reshape(b, h // patch, patch, w // patch, patch, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // patch, w // patch, patch * patch * c)


def depth_to_space(x: Array, patch: int) -> Array:
    """The inverse of `space_to_depth`: [B, H/p, W/p, p² C] → [B, H, W, C]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, patch, patch, c // patch**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * patch, w * patch, c // patch**2)
