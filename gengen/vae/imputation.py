"""Filling in missing data with a latent-variable model (Rezende et al. 2014, 1401.4082)."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gengen.types import Array, InputError, Shape


def check_mask(mask: ArrayLike, shape: Shape) -> Array:
    """Return a mask as a bool array.

    Raises:
        InputError: if it does not broadcast to `shape`.
    """
    m = jnp.asarray(mask, bool)
    sides = zip(m.shape[::-1], shape[::-1], strict=False)
    if m.ndim > len(shape) or any(a not in (1, n) for a, n in sides):
        raise InputError(f"mask has shape {m.shape}; it must broadcast to that of x, {shape}")
    return m


def chain(
    start: Array,
    known: Array,
    mask: Array,
    eta: Callable[[Array | int, Array], Array],
    sample: Callable[[Array, Array], Array],
    steps: int,
) -> Array:
    """Run the Markov chain z ~ q(z|x), missing part of x ~ p(x|z), and return its last η.

    Args:
        start: first x [B, ...].
        known: x [B, ...] where it is known.
        mask: true where x is known.
        eta: (step, x) → the likelihood's parameters for a sample of q(z|x).
        sample: (step, η) → x.
        steps: number of steps.
    """

    def step(i: Array, x: Array) -> Array:
        return jnp.where(mask, known, sample(i, eta(i, x)))

    first = jnp.where(mask, known, start)
    return eta(0, jax.lax.fori_loop(1, steps, step, first))
