"""Dequantised 8-bit pixels as logits: the density of images in Real NVP (1605.08803, §4.1)."""

import jax
import jax.numpy as jnp
import numpy as np

from gengen.types import Array

LEVELS = 256  # of a pixel


def to_logits(alpha: float, x: Array, u: Array) -> tuple[Array, Array]:
    """Return the logits of dequantised pixels, and Σ ln |∂logit/∂v| [B].

    Args:
        alpha: see `realnvp.Config`.
        x: images in [-1, 1].
        u: the noise of dequantisation, in [0, 1), of the shape of x.
    """
    v = jnp.round((x + 1) * ((LEVELS - 1) / 2))
    p = alpha + (1 - 2 * alpha) * (v + u) / LEVELS
    logit = jnp.log(p) - jnp.log1p(-p)
    log_slope = float(np.log((1 - 2 * alpha) / LEVELS)) - jnp.log(p) - jnp.log1p(-p)
    return logit, jnp.sum(log_slope.reshape(len(x), -1), axis=1)


def to_unit(alpha: float, logit: Array) -> Array:
    """Return the dequantised pixels of logits as 2y - 1: in [-1, 1], or slightly outside."""
    return 2 * (jax.nn.sigmoid(logit) - alpha) / (1 - 2 * alpha) - 1


def to_image(alpha: float, logit: Array) -> Array:
    """Return the pixels in [-1, 1] whose dequantised values have these logits."""
    y = (to_unit(alpha, logit) + 1) / 2
    v = jnp.clip(jnp.floor(y * LEVELS), 0, LEVELS - 1)
    return v * (2 / (LEVELS - 1)) - 1
