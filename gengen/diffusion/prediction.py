"""The noise schedule of a Config, and the conversions between what networks predict: ε, x₀ and v.

`cfg` is a Config of `gengen.diffusion.ddpm`, or of a model built on it.
"""

from __future__ import annotations

from typing import Any

from gengen.diffusion.samplers import EpsFn
from gengen.diffusion.schedule import (
    Schedule,
    cosine_schedule,
    linear_schedule,
    root_alpha_bars,
)
from gengen.types import Array, InputError


def noise_schedule(cfg: Any) -> Schedule:
    """Return the schedule of the forward process.

    Raises:
        InputError: for an unknown name.
    """
    if cfg.schedule == "linear":
        return linear_schedule(cfg.T, cfg.beta_start, cfg.beta_end)
    if cfg.schedule == "cosine":
        return cosine_schedule(cfg.T)
    raise InputError(f'Config.schedule = {cfg.schedule!r}; it must be "linear" or "cosine"')


def target(cfg: Any, x: Array, t: Array, eps: Array) -> Array:
    """Return what the network is to predict: ε, x, or v = √ᾱ_t ε - √(1-ᾱ_t) x."""
    if cfg.prediction == "eps":
        return eps
    if cfg.prediction == "x0":
        return x
    a, b = root_alpha_bars(noise_schedule(cfg), t, x.ndim)
    return a * eps - b * x


def as_eps(cfg: Any, predict: EpsFn) -> EpsFn:
    """Return ε̂ as a function of (z, t), from a network that predicts `cfg.prediction`."""
    schedule = noise_schedule(cfg)

    def eps_fn(z: Array, t: Array) -> Array:
        out = predict(z, t)
        if cfg.prediction == "eps":
            return out
        a, b = root_alpha_bars(schedule, t, z.ndim)
        return (z - a * out) / b if cfg.prediction == "x0" else b * z + a * out

    return eps_fn
