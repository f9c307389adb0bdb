r"""Samplers: a denoiser in, samples out, in one `lax.scan`.

A denoiser is any function `eps_fn(z, t) -> ε̂` of z [B, ...] and t [B] int32 in 1..T: a trained
network, or the exact E[ε | z_t] of a distribution one knows.

    ancestral   z_{t-1} = (z_t - β_t ε̂/√(1-ᾱ_t))/√(1-β_t) + σ_t n             n ~ N(0, I)
                every step, σ_t as chosen: Ho et al. 2020 (2006.11239, algorithm 2)
    ddim        z_s = √(ᾱ_s/ᾱ_t) (z_t - √(1-ᾱ_t) ε̂) + √(1-ᾱ_s-σ²) ε̂ + σ n     s < t
                any number of steps: Song et al. 2021 (2010.02502, eq. 12). σ is η times the
                posterior's: 0 is deterministic; 1, in T steps, is ancestral with σ_t² = β̃_t
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from gengen import rng
from gengen.diffusion.schedule import Schedule, reverse_variances
from gengen.types import Array, InputError, Key, Shape

EpsFn = Callable[[Array, Array], Array]


def ancestral(
    eps_fn: EpsFn, schedule: Schedule, key: Key, shape: Shape, variance: str = "posterior"
) -> Array:
    """Draw samples by all T steps of the reverse process.

    Args:
        eps_fn: the denoiser.
        schedule: of the forward process.
        key: of the start and all noise.
        shape: [B, ...] of the samples.
        variance: σ_t²: "posterior", "beta" or "unit"; see `reverse_variances`.

    Returns:
        Samples, float32 of `shape`. The last step, to t = 0, adds no noise.
    """
    # μ = (z - β/√(1-ᾱ) ε̂)/√(1-β) for every choice of σ: the paper fixes it, unlike DDIM's.
    beta, rest = schedule.betas, schedule.one_minus_alpha_bars
    gain = 1 / np.sqrt(1 - beta)
    sigma = np.sqrt(reverse_variances(schedule, variance))
    sigma[0] = 0.0
    times = np.arange(schedule.num_steps, 0, -1)
    return _run(eps_fn, key, shape, times, gain, -gain * beta / np.sqrt(rest), sigma)


def ddim(
    eps_fn: EpsFn,
    schedule: Schedule,
    key: Key,
    shape: Shape,
    steps: int | None = None,
    eta: float = 0.0,
) -> Array:
    """Draw samples in `steps` evaluations of the denoiser.

    Args:
        eps_fn: the denoiser.
        schedule: of the forward process.
        key: of the start and, if eta > 0, of the noise.
        shape: [B, ...] of the samples.
        steps: evaluations, in 1..T, at evenly spaced t, the first at T; T if None.
        eta: noise, as a share of the ancestral sampler's: 0 none, 1 all of it.

    Returns:
        Samples, float32 of `shape`.
    """
    T = schedule.num_steps
    steps = T if steps is None else steps
    if not 1 <= steps <= T:
        raise InputError(f"steps = {steps}, but the schedule allows 1 to T = {T}")
    if not eta >= 0:
        raise InputError(f"eta = {eta}, but a share of noise is at least 0")
    times = np.unique(np.round(np.linspace(0, T, steps + 1)).astype(int))[:0:-1]  # T, ..., > 0
    now, before = (times - 1, np.append(times[1:], 0))  # index of t; s itself, s = 0 at the end
    alpha, rest = schedule.alpha_bars[now], schedule.one_minus_alpha_bars[now]
    alpha_s = np.append(1.0, schedule.alpha_bars)[before]
    rest_s = np.append(0.0, schedule.one_minus_alpha_bars)[before]
    ratio = alpha / alpha_s
    variance = eta**2 * (rest_s / rest) * (1 - ratio)
    direction = np.sqrt(np.maximum(rest_s - variance, 0))
    gain = 1 / np.sqrt(ratio)
    # Indexed by t as the ancestral sampler's coefficients are.
    table = np.zeros((3, T))
    table[:, now] = gain, direction - gain * np.sqrt(rest), np.sqrt(variance)
    return _run(eps_fn, key, shape, times, *table)


def _run(
    eps_fn: EpsFn,
    key: Key,
    shape: Shape,
    times: np.ndarray,
    gain: np.ndarray,
    slope: np.ndarray,
    sigma: np.ndarray,
) -> Array:
    """Scan z ← gain_t z + slope_t ε̂(z, t) + σ_t n_t over `times`; coefficients [T], at t-1."""
    coefficients = [jnp.asarray(c[times - 1], jnp.float32) for c in (gain, slope, sigma)]

    def step(z: Array, now: tuple[Array, ...]) -> tuple[Array, None]:
        t, gain, slope, sigma = now
        noise = rng.normal(jax.random.fold_in(key, t), shape)
        eps = eps_fn(z, jnp.full(shape[0], t))
        return (gain * z + slope * eps + sigma * noise).astype(z.dtype), None

    start = rng.normal(jax.random.fold_in(key, 0), shape)
    return jax.lax.scan(step, start, (jnp.asarray(times, jnp.int32), *coefficients))[0]


def clip_denoised(eps_fn: EpsFn, schedule: Schedule, low: float = -1.0, high: float = 1.0) -> EpsFn:
    """A denoiser whose x̂₀ = (z - √(1-ᾱ_t) ε̂)/√ᾱ_t stays in [low, high], the range of the data.

    Any sampler takes it in the place of `eps_fn`. It keeps errors at large t, which 1/√ᾱ_t blows
    up, from driving the samples out of range.
    """
    root_alpha = jnp.asarray(np.sqrt(schedule.alpha_bars), jnp.float32)
    root_rest = jnp.asarray(np.sqrt(schedule.one_minus_alpha_bars), jnp.float32)

    def clipped(z: Array, t: Array) -> Array:
        index = (t - 1).reshape(-1, *(1,) * (z.ndim - 1))
        a, b = root_alpha[index], root_rest[index]
        x0 = jnp.clip((z - b * eps_fn(z, t)) / a, low, high)
        return (z - a * x0) / b

    return clipped
