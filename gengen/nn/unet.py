"""The U-Net of diffusion models: Ho et al. 2020 (2006.11239, appendix B)."""

from __future__ import annotations

import itertools

import flax.linen as nn
import jax.numpy as jnp

from gengen.nn.embedding import sinusoidal
from gengen.nn.norm import GroupNorm
from gengen.types import Array, InputError
from gengen.xla.winograd import conv_general_dilated

SKIPS = ("block", "level")
RESAMPLE = ("convolution", "block")


class UNet(nn.Module):
    """(x [B, H, W, C], t [B], perhaps y [B, K]) → [B, H, W, out].

    Down through the levels, each at half the resolution of the one above, and up again. What is
    computed on the way down is concatenated to inputs of the same resolution on the way up.

    `skips="block"` is the paper's network: the first convolution, every block and every
    downsampling have a skip connection, so that a level has one block more on the way up than down;
    between the two ways are a block, attention and a block. `skips="level"` has one skip connection
    for each level, from its last block on the way down to its first one on the way up, as many
    blocks on both ways, and nothing between them: half the work at equal widths.

    Attributes:
        out: output channels.
        channels: of each level, the finest first.
        num_blocks: residual blocks of each level on the way down. On the way up: one more with
            `skips="block"`; with "level" as many, and the last level has no way up.
        attention: resolutions (heights, in pixels of the *image*) with self-attention.
        num_heads: of attention.
        num_groups: of group normalisation; divides every number of channels.
        dropout: rate inside the residual blocks, in [0, 1).
        patch: pixels of a side that are folded into channels before the first convolution. With
            few, wide channels CPUs and accelerators run nearer to their peak.
        remat: keep no block's inner activations for the gradient, but compute them again: a third
            more work for a fraction of the memory. The parameters are the same.
        skips: "block" or "level".
        head_dim: channels of each head, instead of `num_heads`; 0: not used.
        time_scale: whether the time scales and shifts features (Dhariwal & Nichol 2021,
            2105.05233), or is added to them, as in the paper.
        resample: with skips="block", "convolution" or "block" (Dhariwal & Nichol): a residual block
            whose inputs are halved by averaging, or doubled.
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
    skips: str = "block"
    head_dim: int = 0
    time_scale: bool = True
    resample: str = "convolution"

    @nn.compact
    def __call__(self, x: Array, t: Array, train: bool = False, y: Array | None = None) -> Array:
        for name, known in (("skips", SKIPS), ("resample", RESAMPLE)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} = {getattr(self, name)!r}; it must be one of {known}")
        by_level = self.skips == "level"
        features = (2 if by_level else 4) * self.channels[0]
        time = TimeEmbedding(features, 0 if by_level else self.channels[0])(t)
        if y is not None:  # one-hot of a class, or any other vector: enters where the time does
            time = time + nn.Dense(features, use_bias=False, name="condition")(y)
        h = conv3x3(self.channels[0])(space_to_depth(x, self.patch))
        if by_level or self.patch > 1:
            # Where in the image a patch lies; the zeros around it tell that only near the border.
            position = self.param("position", nn.initializers.normal(0.02), h.shape[1:])
            h = h + position.astype(h.dtype)
        parts = _Parts(self, time if by_level else nn.swish(time), train)
        h = _by_level(self, parts, h) if by_level else _by_block(self, parts, h)
        h = nn.swish(GroupNorm(self.num_groups)(h))
        out = conv3x3(self.out * self.patch**2, zero=True)(h)
        return depth_to_space(out.astype(jnp.float32), self.patch)


class _Parts:
    """The residual blocks and attention of a U-Net, called in the order of their names.

    Named, since the class that remat makes would name its parameters otherwise.
    """

    def __init__(self, net: UNet, time: Array, train: bool) -> None:
        self.net, self.time, self.train = net, time, train
        self.number, self.attending = itertools.count(), itertools.count()

    def block(self, h: Array, features: int, change: str = "") -> Array:
        """Apply a residual block, to a halved or doubled input if `change` is "down" or "up"."""
        net = self.net
        kind = nn.remat(ResidualBlock, static_argnums=(3,)) if net.remat else ResidualBlock
        shape = (features, net.num_groups, net.dropout, net.time_scale, change)
        return kind(*shape, name=f"ResidualBlock_{next(self.number)}")(h, self.time, self.train)

    def attend(self, h: Array) -> Array:
        """Apply self-attention."""
        net = self.net
        kind = nn.remat(AttentionBlock) if net.remat else AttentionBlock
        heads = h.shape[-1] // net.head_dim if net.head_dim else net.num_heads
        name = f"AttentionBlock_{next(self.attending)}"
        return kind(heads, net.num_groups, name=name)(h)

    def layer(self, h: Array, features: int) -> Array:
        """Apply a residual block and, at the resolutions that have it, self-attention."""
        h = self.block(h, features)
        return self.attend(h) if h.shape[1] * self.net.patch in self.net.attention else h


def _by_block(net: UNet, parts: _Parts, h: Array) -> Array:
    """Go down and up with a skip connection after every block."""
    skips, last, by_conv = [h], len(net.channels) - 1, net.resample == "convolution"
    for i, features in enumerate(net.channels):
        for _ in range(net.num_blocks[i]):
            h = parts.layer(h, features)
            skips.append(h)
        if i < last:
            h = conv3x3(features, stride=2)(h) if by_conv else parts.block(h, features, "down")
            skips.append(h)
    h = parts.block(parts.attend(parts.block(h, net.channels[last])), net.channels[last])
    for i in range(last, -1, -1):
        for _ in range(net.num_blocks[i] + 1):
            h = parts.layer(jnp.concatenate([h, skips.pop()], axis=-1), net.channels[i])
        if i:
            features, (_, height, width, _) = net.channels[i], skips[-1].shape
            h = conv3x3(features)(upsample(h)) if by_conv else parts.block(h, features, "up")
            h = h[:, :height, :width]  # 7 was halved to 4
    return h


def _by_level(net: UNet, parts: _Parts, h: Array) -> Array:
    """Go down and up with a skip connection for each level but the last."""

    def level(h: Array, i: int) -> Array:
        for _ in range(net.num_blocks[i]):
            h = parts.layer(h, net.channels[i])
        return h

    skips, last = [], len(net.channels) - 1
    for i in range(last):
        h = level(h, i)
        skips.append(h)
        h = conv3x3(net.channels[i + 1], stride=2)(h)
    h = level(h, last)
    for i in reversed(range(last)):
        skip = skips.pop()
        h = nn.Dense(net.channels[i])(h)  # before, not after, it grows
        h = upsample(h)[:, : skip.shape[1], : skip.shape[2]]  # 7 was halved to 4
        h = level(jnp.concatenate([h, skip], axis=-1), i)
    return h


class TimeEmbedding(nn.Module):
    """t [B] → [B, features], through sines, cosines and two dense layers.

    Attributes:
        features: of both layers.
        num_waves: sines and cosines; 0: as many as `features`, and an activation at the end.
    """

    features: int
    num_waves: int = 0

    @nn.compact
    def __call__(self, t: Array) -> Array:
        h = nn.Dense(self.features)(sinusoidal(t, self.num_waves or self.features))
        h = nn.Dense(self.features)(nn.swish(h))
        return h if self.num_waves else nn.swish(h)


class ResidualBlock(nn.Module):
    """Norm, swish, convolution, twice; the time enters between them.

    Attributes:
        features: output channels.
        num_groups: of group normalisation.
        dropout: rate.
        time_scale: whether the time scales and shifts the second norm, or is added before it.
        change: "down": the input is halved by averaging; "up": doubled; "": neither.
    """

    features: int
    num_groups: int
    dropout: float
    time_scale: bool = True
    change: str = ""

    @nn.compact
    def __call__(self, x: Array, time: Array, train: bool) -> Array:
        h = nn.swish(GroupNorm(self.num_groups)(x))
        if self.change:
            x, h = (_resampled(a, self.change) for a in (x, h))
        h = conv3x3(self.features)(h)
        modulation = nn.Dense((1 + self.time_scale) * self.features)(time)
        if not self.time_scale:
            h, modulation = h + modulation[:, None, None], None
        h = nn.swish(GroupNorm(self.num_groups)(h, modulation))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        # Zeros: each block starts as the identity.
        h = conv3x3(self.features, zero=True)(h)
        if x.shape[-1] != self.features:
            x = nn.Dense(self.features)(x)
        return x + h


def _resampled(x: Array, change: str) -> Array:
    if change == "up":
        return upsample(x)
    return nn.avg_pool(x, (2, 2), (2, 2), "SAME", count_include_pad=False)


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
