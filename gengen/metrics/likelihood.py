r"""Units of likelihood, and its estimate by importance sampling.

gengen's models give ln p(x) in nats per example. Papers on images print bits per dimension of the
8-bit pixel v; a density of x = v/127.5 - 1, as models see it, is that of v times 127.5 a dimension:

    bits/dim = (-ln p(x) + D ln 127.5) / (D ln 2)

8 is then what a uniform distribution over the levels has. A density is a bound on the probability
of the pixel only if the data was dequantised (v + u, u ~ U[0, 1)); else it can be lowered without
end. For a model with a latent variable (Burda et al. 2016, 1509.00519)

    ln p(x) ≥ E ln (1/K) Σ_k w_k,    w_k = p(x, z_k) / q(z_k|x),    z_k ~ q(·|x)

is tighter, the larger K: K = 1 is the evidence bound.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gengen.metrics.estimate import Estimate
from gengen.types import InputError

LEVEL = 1 / 127.5  # one level of an 8-bit pixel, where 0..255 is [-1, 1]


def bits_per_dim(nats: Any, dims: int, level: float = LEVEL) -> Any:
    """Bits per dimension of the pixel from -ln p(x).

    Args:
        nats: -ln p(x), nats per example: a number or an array.
        dims: D, the number of x's dimensions: H·W·C.
        level: how far apart in x two neighbouring pixel values are; 1 for a discrete distribution,
            whose probability needs no scaling.

    Returns:
        The same shape as `nats`.
    """
    _check_units(dims, level)
    return (nats / dims - math.log(level)) / math.log(2)


def nats_per_example(bits: Any, dims: int, level: float = LEVEL) -> Any:
    """-ln p(x) in nats per example: the inverse of `bits_per_dim`."""
    _check_units(dims, level)
    return (bits * math.log(2) + math.log(level)) * dims


def _check_units(dims: int, level: float) -> None:
    if dims < 1 or not level > 0:
        raise InputError(f"dims = {dims} and level = {level}, but both are positive")


def importance_weighted(log_weights: Any) -> Estimate:
    """The bound on ln p(x) from ln w, in nats per example; the mean over examples if there are N.

    Args:
        log_weights: ln w_k: [K] of one example, or [N, K].

    Returns:
        ln (1/K) Σ w_k. Of one example, n is K and the standard error that of the delta method,
        sd(w)/(√K mean w); of N, n is N and the error the spread over examples divided by √N.

    Raises:
        InputError: for NaN, +∞, or no weights. -∞, a weight of 0, is one like any other.
    """
    w = np.asarray(log_weights, np.float64)
    if w.ndim not in (1, 2) or w.size == 0:
        raise InputError(f"log_weights has shape {w.shape}, but it is [K] or [N, K]")
    if np.isnan(w).any() or np.isposinf(w).any():
        raise InputError("log_weights holds NaN or +infinity: look at the model's densities")
    bounds = _log_mean_exp(np.atleast_2d(w))
    if w.ndim == 1:
        return Estimate(float(bounds[0]), _delta_error(w), len(w))
    error = None
    if len(bounds) > 1 and np.isfinite(bounds).all():
        error = float(np.std(bounds, ddof=1) / np.sqrt(len(bounds)))
    return Estimate(float(bounds.mean()), error, len(bounds))


def effective_sample_size(log_weights: Any) -> float:
    """(Σw)²/Σw² of ln w [K], from 1 to K: how many weights really count. Near 1, trust nothing."""
    w = np.asarray(log_weights, np.float64)
    if w.ndim != 1 or not np.isfinite(w.max(initial=-np.inf)):
        raise InputError(f"log_weights must be [K] with a finite largest one, not {w.shape}")
    w = np.exp(w - w.max())
    return float(w.sum() ** 2 / np.sum(w**2))


def _log_mean_exp(w: np.ndarray) -> np.ndarray:
    """Over the last axis, without overflow; -∞ if all are."""
    top = w.max(axis=-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(np.mean(np.exp(w - top), axis=-1)) + top[..., 0]


def _delta_error(log_weights: np.ndarray) -> float | None:
    if len(log_weights) < 2 or not np.isfinite(log_weights.max()):
        return None
    w = np.exp(log_weights - log_weights.max())
    return float(np.std(w, ddof=1) / (np.sqrt(len(w)) * w.mean()))
