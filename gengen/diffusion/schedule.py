r"""Noise schedules of the forward process q(z_t | z_{t-1}) = N(√(1-β_t) z_{t-1}, β_t I).

Schedules are computed in float64 NumPy; step t ∈ 1..T has index t-1.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from gengen.types import Array, InputError

MAX_BETA = 0.999  # upper bound of β_t, since samplers divide by 1 - β_t


class Schedule(NamedTuple):
    """A schedule of T steps; each field is float64 [T].

    Attributes:
        betas: β_t, variance added by step t.
        alpha_bars: ᾱ_t = Π_{k≤t} (1 - β_k), fraction of the data's variance left after t steps.
        one_minus_alpha_bars: 1 - ᾱ_t, computed without cancellation.
    """

    betas: np.ndarray
    alpha_bars: np.ndarray
    one_minus_alpha_bars: np.ndarray

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.betas)


def from_betas(betas: np.ndarray) -> Schedule:
    """Return the schedule of the given β_t [T], each in (0, 1)."""
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or len(betas) == 0 or not np.all((betas > 0) & (betas < 1)):
        raise InputError("betas must have shape [T], T ≥ 1, and values in (0, 1)")
    log_alpha_bars = np.cumsum(np.log1p(-betas))
    return Schedule(betas, np.exp(log_alpha_bars), -np.expm1(log_alpha_bars))


def linear_schedule(T: int, start: float = 0.1, end: float = 20.0) -> Schedule:
    """Return β_t linear from start/T to end/T (Ho et al. 2020: 1e-4 to 0.02 at T = 1000)."""
    _check_num_steps(T)
    return from_betas(np.minimum(np.linspace(start / T, end / T, T), MAX_BETA))


def cosine_schedule(T: int, s: float = 0.008) -> Schedule:
    """Return ᾱ_t = f(t)/f(0), f(t) = cos²(π/2 (t/T + s)/(1 + s)) (Nichol & Dhariwal 2021)."""
    _check_num_steps(T)
    f = np.cos(np.pi / 2 * (np.arange(T + 1) / T + s) / (1 + s)) ** 2
    return from_betas(np.clip(1 - f[1:] / f[:-1], 1e-12, MAX_BETA))


def _check_num_steps(T: int) -> None:
    if T < 1:
        raise InputError(f"T = {T}; a schedule needs at least 1 step")


def previous_alpha_bars(schedule: Schedule) -> tuple[np.ndarray, np.ndarray]:
    """Return ᾱ_{t-1} and 1 - ᾱ_{t-1} for t = 1..T, where ᾱ_0 = 1."""
    return (
        np.append(1.0, schedule.alpha_bars[:-1]),
        np.append(0.0, schedule.one_minus_alpha_bars[:-1]),
    )


def reverse_variances(schedule: Schedule, variance: str) -> np.ndarray:
    """Return σ_t² [T] of the reverse step p(z_{t-1} | z_t).

    Args:
        schedule: of the forward process.
        variance: "posterior": β̃_t = β_t (1-ᾱ_{t-1})/(1-ᾱ_t), optimal if the data are a single
            point (0 at t = 1). "beta": β_t, optimal if they are N(0, I); with it the ELBO of an
            exact denoiser converges to the log-likelihood as T grows. "unit":
            β_t²/((1-β_t)(1-ᾱ_t)), which makes every weight of the ELBO ½. Do not sample with
            "unit": on the linear schedule it is too small at large t, on the cosine schedule too
            large where β_t is clipped.
    """
    beta, rest = schedule.betas, schedule.one_minus_alpha_bars
    if variance == "posterior":
        return beta * previous_alpha_bars(schedule)[1] / rest
    if variance == "beta":
        return beta
    if variance == "unit":
        return beta**2 / ((1 - beta) * rest)
    raise InputError(f'variance = {variance!r}; it must be "posterior", "beta" or "unit"')


def q_sample(schedule: Schedule, x: Array, t: Array, eps: Array) -> Array:
    """Return z_t = √ᾱ_t x + √(1-ᾱ_t) ε, for x, ε [B, ...] and t [B] in 1..T."""
    a, b = root_alpha_bars(schedule, t, x.ndim)
    return a * x + b * eps


def root_alpha_bars(schedule: Schedule, t: Array, ndim: int) -> tuple[Array, Array]:
    """Return √ᾱ_t and √(1-ᾱ_t) at t [B], shaped to multiply an array of `ndim` axes."""
    return (
        _at(np.sqrt(schedule.alpha_bars), t, ndim),
        _at(np.sqrt(schedule.one_minus_alpha_bars), t, ndim),
    )


def _at(values: np.ndarray, t: Array, ndim: int) -> Array:
    """Return values[t - 1] as float32 [B, 1, ...] of `ndim` axes."""
    return jnp.asarray(values, jnp.float32)[t - 1].reshape(-1, *(1,) * (ndim - 1))
