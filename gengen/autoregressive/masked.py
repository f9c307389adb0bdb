"""Masked convolutions, which let a pixel depend on earlier pixels and channels only."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gengen.types import LAYOUT, Array


def channels_mask(
    inputs: int, out: int, channels: int, strict: bool = False, gates: int = 1
) -> np.ndarray:
    """Return the mask [inputs, out] of features in `channels` equal groups.

    Args:
        inputs: input features.
        out: output features.
        channels: number of groups: R, G, B.
        strict: mask A, group c depends on the groups before it; else mask B, on its own as well.
        gates: number of gates among the output features, each with all groups.
    """
    below = np.arange(inputs)[:, None] * channels // inputs
    above = np.tile(np.arange(out // gates) * channels * gates // out, gates)
    return (below < above if strict else below <= above).astype(np.float32)


class Conv(nn.Module):
    """A convolution without padding; `mask` [in, out] applies to the last place of the kernel."""

    features: int
    rows: int = 1
    columns: int = 1
    mask: Callable[[int, int], np.ndarray] | None = None
    bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, H + rows - 1, W + columns - 1, C] → [B, H, W, features]."""
        size = (self.rows, self.columns, x.shape[-1], self.features)
        W = self.param("W", nn.initializers.lecun_normal(), size)
        if self.mask is not None:
            W = W.at[-1, -1].multiply(self.mask(*size[2:]))
        if x.shape[1:3] == size[:2]:  # one place: a matrix product
            y = (x.reshape(len(x), -1) @ W.reshape(-1, self.features))[:, None, None]
        elif size[:2] == (1, 1):
            y = x @ W[0, 0]
        else:
            y = jax.lax.conv_general_dilated(x, W, (1, 1), "VALID", dimension_numbers=LAYOUT)
        return y + self.param("b", nn.initializers.zeros, size[3:]) if self.bias else y


def pad(x: Array, top: int = 0, left: int = 0, right: int = 0) -> Array:
    """Pad images [B, H, W, C] with zeros."""
    return jnp.pad(x, ((0, 0), (top, 0), (left, right), (0, 0)))


class First(nn.Module):
    """The first layer, mask A: depends on earlier pixels in a window of (2r+1)²."""

    features: int
    r: int
    channels: int

    def setup(self):
        strict = partial(channels_mask, channels=self.channels, strict=True)
        self.rows_above = Conv(self.features, self.r, 2 * self.r + 1)
        self.pixels_left = Conv(self.features, 1, self.r + 1, strict)

    def above(self, x: Array) -> Array:
        """Return the part of the rows above, for rows [B, r + H - 1, W, ...]: [B, H, W, F]."""
        return self.rows_above(pad(x, left=self.r, right=self.r))

    def left(self, x: Array) -> Array:
        """Return the part of the pixels to the left, for [B, H, r + W, ...]: [B, H, W, F]."""
        return self.pixels_left(x)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Return both parts for whole images [B, H, W, ...]: [B, H, W, F] each."""
        return self.above(pad(x[:, :-1], top=self.r)), self.left(pad(x, left=self.r))


class Last(nn.Module):
    """Two 1×1 layers with mask B, to the head's parameters [B, H, W, C, parts]."""

    features: int
    channels: int
    parts: int

    @nn.compact
    def __call__(self, h: Array) -> Array:
        known = partial(channels_mask, channels=self.channels)
        h = Conv(self.features, mask=known, name="hidden")(nn.relu(h))
        eta = Conv(self.channels * self.parts, mask=known, name="out")(nn.relu(h))
        return eta.reshape(*eta.shape[:3], self.channels, self.parts)
