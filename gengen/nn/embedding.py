"""Embeddings of scalars and classes."""

from __future__ import annotations

import jax.numpy as jnp

from gengen.types import Array


def sinusoidal(t: Array, features: int, max_period: float = 10_000.0) -> Array:
    """Sines and cosines of t at geometrically spaced frequencies (Vaswani et al. 2017).

    Args:
        t: [B], in units of steps.
        features: even number of outputs.
        max_period: longest wave length over 2π, in the unit of t.

    Returns:
        float32 [B, features].
    """
    frequencies = max_period ** (-jnp.arange(features // 2) / (features // 2))
    angles = t[:, None].astype(jnp.float32) * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
