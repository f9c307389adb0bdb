r"""Sliced Wasserstein distance: earth mover's distances of one-dimensional shadows.

Rabin et al. 2011; Bonneel et al. 2015, *Sliced and Radon Wasserstein Barycenters of Measures*:

    SW²(p, q) = E_θ W₂²(θᵀp, θᵀq),    W₂²(p, q) = ∫₀¹ (F_p⁻¹(u) - F_q⁻¹(u))² du

over directions θ uniform on the unit sphere. In one dimension W₂ is a matter of sorting, exact also
for sets of two sizes. Between N(0, I) and N(μ, s²I) it is ‖μ‖²/D + (s-1)². Biased upwards for few
examples; floor: the same of as many real held-out ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gengen.metrics.checks import check_pair
from gengen.metrics.estimate import Estimate
from gengen.metrics.resampling import of_mean
from gengen.types import InputError

BLOCK = 100  # directions at a time


def sliced_wasserstein(*, real: Any, fake: Any, directions: int = 1000, seed: int = 0) -> Estimate:
    """SW², the mean of W₂² over random directions, in squared units of the features.

    The standard error is of the choice of the examples of both sets and of the directions. 3·D
    times the value is torch-fidelity's scale (its MIND).

    Args:
        real: [N, D].
        fake: [M, D].
        directions: how many θ.
        seed: of their drawing.

    Raises:
        InputError: for NaN or differing D.
    """
    if directions < 1:
        raise InputError(f"directions = {directions}, but at least 1 is needed")
    x, y = check_pair(real, fake)
    theta = np.random.default_rng(seed).standard_normal((directions, x.shape[1]))
    theta /= np.linalg.norm(theta, axis=1, keepdims=True)
    squares, of_x, of_y = [], np.zeros(len(x)), np.zeros(len(y))
    for i in range(0, directions, BLOCK):
        a, b = x @ theta[i : i + BLOCK].T, y @ theta[i : i + BLOCK].T
        squares.append(squared_w2(a, b))
        of_x += _influence(a, b).sum(axis=1) / directions
        of_y += _influence(b, a).sum(axis=1) / directions
    of_directions = of_mean(np.concatenate(squares))
    errors = [of_mean(of_x), of_mean(of_y), of_directions]
    error = None if None in errors else float(np.linalg.norm(np.array(errors, float)))
    return Estimate(float(np.concatenate(squares).mean()), error, min(len(x), len(y)))


def _influence(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Influence of each x [N, K] on W₂² of the columns of x and y [M, K]: [N, K].

    But for a constant, it is the Kantorovich potential φ, φ'(x) = 2 (x - T(x)), where T moves x to
    y: summed by the trapezoidal rule over the sorted x.
    """
    order, n = np.argsort(x, axis=0), len(x)
    at = np.take_along_axis(x, order, axis=0)
    # Quantiles of y, at the middle of each of n equal parts of the mass.
    to = np.sort(y, axis=0)[((np.arange(n) + 0.5) / n * len(y)).astype(int)]
    slope = 2 * (at - to)
    steps = (slope[1:] + slope[:-1]) / 2 * np.diff(at, axis=0)
    potential = np.concatenate([np.zeros((1, x.shape[1])), np.cumsum(steps, axis=0)])
    found = np.empty_like(x)
    np.put_along_axis(found, order, potential, axis=0)
    return found


def squared_w2(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """W₂² of each column of x [N, K] and y [M, K]: float64 [K]."""
    x, y = np.sort(x, axis=0), np.sort(y, axis=0)
    if len(x) == len(y):
        return np.mean((x - y) ** 2, axis=0)
    # Both inverse distribution functions are constant between neighbouring multiples of 1/N, 1/M:
    # in units of 1/NM they are whole numbers, without rounding.
    n, m = len(x), len(y)
    edges = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)
    start, width = edges[:-1], np.diff(edges) / (n * m)
    return width @ (x[start // m] - y[start // n]) ** 2
