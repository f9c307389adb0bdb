r"""Samplers for any denoiser, each in one `lax.scan`.

A denoiser is any function `eps_fn(z, t) -> ε̂` of z [B, ...] and t [B] int32 in 1..T: a trained
network, or the exact E[ε | z_t] of a known distribution. x̂₀ = (z_t - √(1-ᾱ_t) ε̂)/√ᾱ_t.

    ancestral   z_{t-1} = (z_t - β_t ε̂/√(1-ᾱ_t))/√(1-β_t) + σ_t n             n ~ N(0, I)
                every step, σ_t as chosen: Ho et al. 2020 (2006.11239, algorithm 2)
    ddim        z_s = √ᾱ_s x̂₀ + √(1-ᾱ_s-σ²) ε̂ + σ n                           s < t
                any number of steps: Song et al. 2021 (2010.02502, eq. 12). σ is η times the
                posterior's: 0 is deterministic; 1, in T steps, is ancestral with σ_t² = β̃_t
    multistep   z_s = √((1-ᾱ_s)/(1-ᾱ_t)) z_t - √ᾱ_s (e^{-h} - 1) D,   D = x̂₀ + (x̂₀ - x̂₀')/(2r)
                DPM-Solver++(2M): Lu et al. 2022 (2211.01095, algorithm 2). h is the step of
                λ = ½ ln(ᾱ/(1-ᾱ)), r the last step over this one, x̂₀' the last guess: second order
                for one evaluation a step. The first step is ddim's, and the last if it ends at 0

With σ = 0 the last two solve dz/dt = the probability flow; their global errors fall as 1/steps and
1/steps². `guided` turns the denoiser of p(z|y) and of p(z) into a sharper one, for any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gengen import rng
from gengen.diffusion.schedule import Schedule, reverse_variances
from gengen.types import Array, InputError, Key, Shape

EpsFn = Callable[[Array, Array], Array]
Steps = int | Sequence[int] | np.ndarray | None  # evaluations, or the times: see `timesteps`


def ancestral(
    eps_fn: EpsFn, schedule: Schedule, key: Key, shape: Shape, variance: str = "posterior"
) -> Array:
    """Sample by all T steps of the reverse process.

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
    rule = np.stack([gain, -gain * beta / np.sqrt(rest), sigma])[:, ::-1]
    return _run(eps_fn, key, shape, timesteps(schedule), *rule)


def ddim(
    eps_fn: EpsFn, schedule: Schedule, key: Key, shape: Shape, steps: Steps = None, eta: float = 0.0
) -> Array:
    """Sample in `steps` evaluations of the denoiser.

    Args:
        eps_fn: the denoiser.
        schedule: of the forward process.
        key: of the start and, if eta > 0, of the noise.
        shape: [B, ...] of the samples.
        steps: evaluations, in 1..T, at evenly spaced t; T if None; or times: see `timesteps`.
        eta: noise, as a fraction of the ancestral sampler's: 0 none, 1 all of it.

    Returns:
        Samples, float32 of `shape`.
    """
    if not eta >= 0:
        raise InputError(f"eta = {eta}; it must be at least 0")
    times = timesteps(schedule, steps)
    alpha, rest = _bars(schedule, times)
    ratio = alpha[:-1] / alpha[1:]
    variance = eta**2 * (rest[1:] / rest[:-1]) * (1 - ratio)
    direction = np.sqrt(np.maximum(rest[1:] - variance, 0))
    gain = 1 / np.sqrt(ratio)
    slope = direction - gain * np.sqrt(rest[:-1])
    return _run(eps_fn, key, shape, times, gain, slope, np.sqrt(variance))


def multistep(
    eps_fn: EpsFn, schedule: Schedule, key: Key, shape: Shape, steps: Steps = None
) -> Array:
    """Sample in `steps` evaluations of the denoiser, by a second-order solver.

    Args:
        eps_fn: the denoiser.
        schedule: of the forward process.
        key: of the start, the only noise.
        shape: [B, ...] of the samples.
        steps: as in `ddim`.

    Returns:
        Samples, float32 of `shape`.
    """
    times = timesteps(schedule, steps)
    alpha, rest = _bars(schedule, times)
    with np.errstate(divide="ignore"):
        h = np.diff(0.5 * np.log(alpha / rest))  # the last is infinite if it ends at t = 0
    before = np.zeros(len(h))  # 1/(2r)
    before[1:] = h[1:] / (2 * h[:-1])
    before[~np.isfinite(before)] = 0
    weight = -np.sqrt(alpha[1:]) * np.expm1(-h)
    own = weight * (1 + before) / np.sqrt(alpha[:-1])  # of √ᾱ x̂₀ = z - √(1-ᾱ) ε̂
    gain = np.sqrt(rest[1:] / rest[:-1]) + own
    slope, sigma = -own * np.sqrt(rest[:-1]), np.zeros(len(h))
    guess = 1 / np.sqrt(alpha[:-1]), -np.sqrt(rest[:-1] / alpha[:-1])
    return _run(eps_fn, key, shape, times, gain, slope, sigma, (-weight * before, *guess))


def timesteps(schedule: Schedule, steps: Steps = None) -> np.ndarray:
    """Return the times that a sampler visits, from T down to where it ends: int [steps + 1].

    Args:
        schedule: of T steps.
        steps: how many, evenly spaced from T to 0, in 1..T; None: all; or the times themselves,
            decreasing, such as a grid that is dense near 0, or one that ends above it.
    """
    T = schedule.num_steps
    if isinstance(steps, Sequence | np.ndarray):
        times = np.asarray(steps)
        falling = times.ndim == 1 and len(times) > 1 and bool(np.all(np.diff(times) < 0))
        if not falling or times[0] > T or times[-1] < 0:
            raise InputError(f"steps = {steps}; times must decrease within T = {T}..0")
        return times
    steps = T if steps is None else steps
    if not 1 <= steps <= T:
        raise InputError(f"steps = {steps}; the schedule allows 1 to T = {T}")
    return np.unique(np.round(np.linspace(0, T, steps + 1)).astype(int))[::-1]


def _bars(schedule: Schedule, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ᾱ_t and 1 - ᾱ_t at times 0..T."""
    alpha, rest = schedule.alpha_bars, schedule.one_minus_alpha_bars
    return np.append(1.0, alpha)[times], np.append(0.0, rest)[times]


def _run(
    eps_fn: EpsFn,
    key: Key,
    shape: Shape,
    times: np.ndarray,
    gain: np.ndarray,
    slope: np.ndarray,
    sigma: np.ndarray,
    memory: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
) -> Array:
    """Scan z ← gain z + slope ε̂(z, t) + σ n over all `times` but the last; coefficients [steps].

    With `memory` (m, a, b), add m times a z + b ε̂ of the previous step.
    """
    noisy = bool(sigma.any())  # sampling it and multiplying by 0 would cost as much
    rules = jnp.asarray(np.stack([gain, slope, sigma, *(memory or ())], 1), jnp.float32)

    def step(carry: tuple[Array, Array], now: tuple[Array, Array]):
        (z, last), (t, rule) = carry, now
        eps = eps_fn(z, jnp.full(shape[0], t))
        new = rule[0] * z + rule[1] * eps
        if noisy:
            new += rule[2] * rng.normal(jax.random.fold_in(key, t), shape)
        if memory:
            new, last = new + rule[3] * last, (rule[4] * z + rule[5] * eps).astype(z.dtype)
        return (new.astype(z.dtype), last), None

    start = rng.normal(jax.random.fold_in(key, 0), shape)
    last = jnp.zeros_like(start) if memory else jnp.zeros(())
    (z, _), _ = jax.lax.scan(step, (start, last), (jnp.asarray(times[:-1], jnp.int32), rules))
    return z


def guided(both: EpsFn, w: float) -> EpsFn:
    """Return the denoiser of classifier-free guidance: ε̂ = (1+w) ε̂(z, t | y) - w ε̂(z, t).

    Ho & Salimans 2022 (2207.12598). It is the score of p(z|y) (p(z|y)/p(z))^w: samples fit y
    better and vary less.

    Args:
        both: a denoiser of [2B, ...] whose first B rows are conditioned on y, and the others not.
        w: the weight; 0: p(z|y) itself, at twice its cost.
    """

    def eps_fn(z: Array, t: Array) -> Array:
        doubled = both(jnp.concatenate([z, z]), jnp.concatenate([t, t]))
        conditioned, unconditioned = jnp.split(doubled, 2)
        return (1 + w) * conditioned - w * unconditioned

    return eps_fn


def clip_denoised(eps_fn: EpsFn, schedule: Schedule, low: float = -1.0, high: float = 1.0) -> EpsFn:
    """Return a denoiser whose x̂₀ = (z - √(1-ᾱ_t) ε̂)/√ᾱ_t is clipped to [low, high].

    It keeps errors at large t, which 1/√ᾱ_t amplifies, from driving the samples out of the data's
    range. Its gradient is that of the unclipped `eps_fn`, so that guidance still works where x̂₀ is
    black or white.
    """
    root_alpha = jnp.asarray(np.sqrt(schedule.alpha_bars), jnp.float32)
    root_rest = jnp.asarray(np.sqrt(schedule.one_minus_alpha_bars), jnp.float32)

    def clipped(z: Array, t: Array) -> Array:
        index = (t - 1).reshape(-1, *(1,) * (z.ndim - 1))
        a, b = root_alpha[index], root_rest[index]
        free = (z - b * eps_fn(z, t)) / a
        x0 = free + jax.lax.stop_gradient(jnp.clip(free, low, high) - free)
        return (z - a * x0) / b

    return clipped
