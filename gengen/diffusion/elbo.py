r"""The evidence lower bound of diffusion models, term by term.

    -ln p(x) ≤ KL(q(z_T|x) ‖ N(0,I)) + Σ_{t≥2} E KL(q(z_{t-1}|z_t,x) ‖ p(z_{t-1}|z_t))
               - E ln p(x|z_1)

Ho, Jain & Abbeel 2020, *Denoising Diffusion Probabilistic Models* (2006.11239), equation 5.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from gengen import rng
from gengen.diffusion.samplers import EpsFn
from gengen.diffusion.schedule import (
    Schedule,
    previous_alpha_bars,
    q_sample,
    reverse_variances,
)
from gengen.types import Array, Key


def elbo(
    eps_fn: EpsFn,
    schedule: Schedule,
    x: Array,
    key: Key,
    variance: str = "beta",
    levels: int | None = 256,
) -> Array:
    """Return the ELBO of x [B, ...], a lower bound of ln p(x): [B], in nats.

    The arguments are those of `elbo_terms`.
    """
    terms = elbo_terms(eps_fn, schedule, x, key, variance, levels)
    return -sum(terms.values(), jnp.zeros(x.shape[0]))


def elbo_terms(
    eps_fn: EpsFn,
    schedule: Schedule,
    x: Array,
    key: Key,
    variance: str = "beta",
    levels: int | None = 256,
) -> dict[str, Array]:
    """Return the three terms of -ELBO, in nats per example, with one sample of ε for each t.

    Args:
        eps_fn: the denoiser.
        schedule: of the forward process.
        x: [B, ...].
        key: of the noise.
        variance: σ_t² of the reverse step. "posterior" is 0 at t = 1; β̃_2 is used there.
        levels: number of evenly spaced values in [-1, 1] that x takes, each the middle of a bin
            whose probability is computed (the paper's §3.3); None: x is continuous, and the
            densities are used.

    Returns:
        "prior" KL(q(z_T|x) ‖ N(0,I)), "diffusion" Σ_{t≥2} KL, "reconstruction" -ln p(x|z_1): [B].
    """
    beta, alpha, rest = schedule
    axes, dims = tuple(range(1, x.ndim)), x[0].size
    sigma2 = reverse_variances(schedule, variance).copy()
    if sigma2[0] == 0:
        sigma2[0] = sigma2[min(1, len(sigma2) - 1)]
    posterior = beta * previous_alpha_bars(schedule)[1] / rest
    # KL of N(μ̃, β̃ I) from N(μ, σ² I), where μ̃ - μ = β/√((1-β)(1-ᾱ)) (ε̂ - ε).
    ratio = posterior / sigma2
    constant = 0.5 * dims * (ratio - 1 - np.log(np.where(ratio > 0, ratio, 1.0)))
    weight = beta**2 / (2 * sigma2 * (1 - beta) * rest)

    def noisy(t: Array) -> tuple[Array, Array, Array]:
        eps = rng.normal(jax.random.fold_in(key, t), x.shape)
        times = jnp.full(x.shape[0], t)
        z = q_sample(schedule, x, times, eps)
        return z, eps, eps_fn(z, times)

    def add(total: Array, now: tuple[Array, ...]) -> tuple[Array, None]:
        t, constant, weight = now
        _, eps, predicted = noisy(t)
        return total + constant + weight * jnp.sum((eps - predicted) ** 2, axes), None

    T = schedule.num_steps
    numbers = (jnp.arange(2, T + 1), *(jnp.asarray(c[1:], jnp.float32) for c in (constant, weight)))
    diffusion, _ = jax.lax.scan(add, jnp.zeros(x.shape[0]), numbers)
    z, _, predicted = noisy(jnp.int32(1))
    mean = (z - float(beta[0] / np.sqrt(rest[0])) * predicted) / float(np.sqrt(1 - beta[0]))
    sigma = float(np.sqrt(sigma2[0]))
    decoder = _log_density(x, mean, sigma) if levels is None else _log_bin(x, mean, sigma, levels)
    # ½ (ᾱ x² + (1-ᾱ) - 1 - ln(1-ᾱ)), with (1-ᾱ) - 1 = -ᾱ.
    spread = float(-alpha[-1] - np.log(rest[-1]))
    prior = 0.5 * jnp.sum(float(alpha[-1]) * x**2 + spread, axes)
    return {"prior": prior, "diffusion": diffusion, "reconstruction": -jnp.sum(decoder, axes)}


def _log_density(x: Array, mean: Array, sigma: float) -> Array:
    """Return ln N(x; mean, σ²), elementwise."""
    return -0.5 * ((x - mean) / sigma) ** 2 - float(np.log(sigma * np.sqrt(2 * np.pi)))


def _log_bin(x: Array, mean: Array, sigma: float, levels: int) -> Array:
    """Return ln P(bin of x) under N(mean, σ²); the first and last bins extend to infinity."""
    half = 1 / (levels - 1)
    upper = jnp.where(x > 1 - half, jnp.inf, (x + half - mean) / sigma)
    lower = jnp.where(x < -1 + half, -jnp.inf, (x - half - mean) / sigma)
    # Use the tail nearer to 0, where differences of Φ keep their precision.
    flip = lower > 0
    lower, upper = jnp.where(flip, -upper, lower), jnp.where(flip, -lower, upper)
    log_upper, log_lower = (jax.scipy.stats.norm.logcdf(upper), jax.scipy.stats.norm.logcdf(lower))
    return log_upper + jnp.log1p(-jnp.exp(jnp.minimum(log_lower - log_upper, -1e-7)))
