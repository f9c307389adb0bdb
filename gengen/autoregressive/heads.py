r"""Heads: the distribution p(x|η) of one dimension, with parameters η from a network.

    bernoulli     P(x = 1) = σ(η), x = ±1
    categorical   P(x = level k) = softmax(η)_k, the levels -1, -1 + 2/(K-1), ..., 1
    logistic      Σ_k π_k of discretised logistics: 8-bit pixels (PixelCNN++, 1701.05517)
    gaussian      Σ_k π_k N(μ_k, s_k²): real numbers, a density

The parameters of a mixture are ln π + const, μ and ln s of each component. s is at least e⁻⁷:
otherwise the density of data that repeat a value would have no upper bound.

Sampling uses two uniform numbers and the inverse of the distribution function, so that the same
numbers give the same image in any program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gengen import distributions as dist
from gengen.types import Array, InputError

NAMES = ("bernoulli", "categorical", "logistic", "gaussian")
LEAST_LOG_SCALE = -7.0


class Head(NamedTuple):
    """A distribution of one dimension.

    Attributes:
        parts: number of parameters η.
        log_p: (x [...], η [..., parts]) → ln p(x|η) [...], in nats.
        sample: (u [..., 2] uniform in [0, 1), η [..., parts]) → x [...].
    """

    parts: int
    log_p: Callable[[Array, Array], Array]
    sample: Callable[[Array, Array], Array]


def head(name: str, levels: int, components: int) -> Head:
    """Return the head `name`.

    Args:
        name: one of `NAMES`.
        levels: number of intensity levels, of a categorical head.
        components: number of components, of a mixture.

    Raises:
        InputError: for another name.
    """
    if name not in NAMES:
        raise InputError(f"Config.head = {name!r}; it must be one of {', '.join(NAMES)}")
    return {
        "bernoulli": lambda: Head(1, _bernoulli, _sample_bernoulli),
        "categorical": lambda: _categorical(levels),
        "logistic": lambda: _mixture(components, dist.log_bin, _sample_logistic),
        "gaussian": lambda: _mixture(components, _log_normal, _sample_normal),
    }[name]()


def level(x: Array, levels: int) -> Array:
    """Return the index 0..levels-1 of the level nearest to x in [-1, 1]: int32, of x's shape."""
    return jnp.clip(jnp.round((x + 1) * (levels - 1) / 2), 0, levels - 1).astype(jnp.int32)


def value(k: Array, levels: int) -> Array:
    """Return the value in [-1, 1] of level k."""
    return jnp.minimum(2 * k.astype(jnp.float32) / (levels - 1) - 1, 1.0)  # 1 + 1e-7 is no pixel


def _bernoulli(x: Array, eta: Array) -> Array:
    return jax.nn.log_sigmoid(x * eta[..., 0])


def _sample_bernoulli(u: Array, eta: Array) -> Array:
    return jnp.where(u[..., 0] < jax.nn.sigmoid(eta[..., 0]), 1.0, -1.0)


def _categorical(levels: int) -> Head:
    def log_p(x: Array, eta: Array) -> Array:
        k = level(x, levels)[..., None]
        return jnp.take_along_axis(jax.nn.log_softmax(eta), k, axis=-1)[..., 0]

    return Head(levels, log_p, lambda u, eta: value(_choose(u[..., 0], eta), levels))


def _choose(u: Array, logits: Array) -> Array:
    """Return k with probability softmax(logits)_k, the number of steps of the CDF below u."""
    steps = jnp.cumsum(jax.nn.softmax(logits), axis=-1)[..., :-1]  # the last is 1, up to rounding
    return jnp.sum(u[..., None] >= steps, axis=-1)


def _mixture(components: int, log_part: Callable, sample_part: Callable) -> Head:
    def split(eta: Array) -> tuple[Array, Array, Array]:
        logits, mean, log_scale = jnp.split(eta, 3, axis=-1)
        return logits, mean, jnp.maximum(log_scale, LEAST_LOG_SCALE)

    def log_p(x: Array, eta: Array) -> Array:
        logits, mean, log_scale = split(eta)
        return jax.nn.logsumexp(
            jax.nn.log_softmax(logits) + log_part(x[..., None], mean, log_scale), axis=-1
        )

    def sample(u: Array, eta: Array) -> Array:
        logits, mean, log_scale = split(eta)
        k = _choose(u[..., 0], logits)[..., None]
        mean, log_scale = (jnp.take_along_axis(a, k, -1)[..., 0] for a in (mean, log_scale))
        return sample_part(jnp.clip(u[..., 1], 1e-6, 1 - 1e-6), mean, jnp.exp(log_scale))

    return Head(3 * components, log_p, sample)


def _log_normal(x: Array, mean: Array, log_scale: Array) -> Array:
    return -0.5 * ((x - mean) * jnp.exp(-log_scale)) ** 2 - log_scale - 0.5 * dist.LN_2PI


def _sample_normal(u: Array, mean: Array, scale: Array) -> Array:
    return mean + scale * jax.scipy.special.ndtri(u)


def _sample_logistic(u: Array, mean: Array, scale: Array) -> Array:
    x = mean + scale * (jnp.log(u) - jnp.log1p(-u))
    return value(level(x, dist.LEVELS), dist.LEVELS)
