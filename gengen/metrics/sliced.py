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
from gengen.types import InputError

BLOCK = 100  # directions at a time


def sliced_wasserstein(*, real: Any, fake: Any, directions: int = 1000, seed: int = 0) -> Estimate:
    """SW², the mean of W₂² over random directions, in squared units of the features.

    The standard error is of the choice of the directions, not of the examples. 3·D times the value
    is torch-fidelity's scale (its MIND).

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
    squares = np.concatenate(
        [
            squared_w2(x @ theta[i : i + BLOCK].T, y @ theta[i : i + BLOCK].T)
            for i in range(0, directions, BLOCK)
        ]
    )
    error = float(np.std(squares, ddof=1) / np.sqrt(directions)) if directions > 1 else None
    return Estimate(float(squares.mean()), error, min(len(x), len(y)))


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
