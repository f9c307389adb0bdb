r"""Kernel inception distance: the squared maximum mean discrepancy of features.

Bińkowski et al. 2018, *Demystifying MMD GANs* (1801.01401), with the polynomial kernel

    k(x, y) = (xᵀy/D + 1)³

    MMD² = Σ_{i≠j} k(xᵢ, xⱼ)/(n(n-1)) + Σ_{i≠j} k(yᵢ, yⱼ)/(m(m-1)) - 2 Σ k(xᵢ, yⱼ)/(nm)

Unbiased, so it can be negative, and its floor is 0 within the standard error, whatever n. `kid`
uses all pairs, block by block; `kid_of_subsets` is the usual protocol, the mean over 100 random
subsets of 1000: the same expectation with more noise, at 2048 features the quicker one beyond some
ten thousand examples. Papers often print 1000 times the value.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gengen.metrics.checks import check_pair
from gengen.metrics.estimate import Estimate
from gengen.types import InputError

BLOCK = 200  # rows of the kernel's matrix at a time: few enough for memory


def polynomial_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """k(xᵢ, yⱼ) [n, m] for x [n, D], y [m, D], both of floats."""
    k = x @ y.T
    for row in k:  # each stays in the cache
        row /= x.shape[1]
        row += 1
        row *= row * row  # a power of NumPy's takes ten times as long
    return k


def kid(*, real: Any, fake: Any) -> Estimate:
    """MMD² from all pairs, unbiased.

    The standard error is that of the estimator's linear part (Hoeffding's projection),
    2 √(Var ĥ(x)/n + Var ĥ(y)/m), where ĥ(x) is x's mean kernel with its own set less that with the
    other: of the choice of both sets.

    Args:
        real: [N, D], N ≥ 2.
        fake: [M, D], M ≥ 2.

    Raises:
        InputError: for fewer, NaN, or differing D.
    """
    x, y = check_pair(real, fake, at_least=2)
    within_x, within_y = _within(x), _within(y)
    x_to_y, y_to_x = _between(x, y)
    value = within_x.mean() + within_y.mean() - 2 * x_to_y.mean()
    variance = np.var(within_x - x_to_y, ddof=1) / len(x)
    variance += np.var(within_y - y_to_x, ddof=1) / len(y)
    return Estimate(float(value), float(2 * np.sqrt(variance)), min(len(x), len(y)))


def _within(x: np.ndarray) -> np.ndarray:
    """Each example's mean kernel with all others of its set: [n]."""
    sums = np.zeros(len(x))
    for i in range(0, len(x), BLOCK):
        k = polynomial_kernel(x[i : i + BLOCK], x[i:])  # those before are known: it is symmetric
        sums[i : i + BLOCK] += k.sum(axis=1)
        sums[i + BLOCK :] += k[:, BLOCK:].sum(axis=0)
    own = (np.einsum("nd,nd->n", x, x) / x.shape[1] + 1) ** 3
    return (sums - own) / (len(x) - 1)


def _between(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each example's mean kernel with all of the other set: [n] and [m]."""
    of_x, of_y = np.empty(len(x)), np.zeros(len(y))
    for i in range(0, len(x), BLOCK):
        block = polynomial_kernel(x[i : i + BLOCK], y)
        of_x[i : i + BLOCK] = block.mean(axis=1)
        of_y += block.sum(axis=0)
    return of_x, of_y / len(x)


def kid_of_subsets(
    *, real: Any, fake: Any, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> Estimate:
    """The mean of MMD² over random pairs of subsets: the protocol of the paper and of most tools.

    The default seed and the order of drawing are torch-fidelity's, so the same features give the
    same number. The standard error is the spread over subsets divided by √subsets: of the choice of
    the subsets, not of the sets. (What tools print after ± is that spread itself.)

    Args:
        real: [N, D], N ≥ `subset_size`.
        fake: [M, D], M ≥ `subset_size`.
        subsets: how many.
        subset_size: examples of each, drawn without replacement.
        seed: of the drawing.

    Raises:
        InputError: for fewer examples, NaN, or differing D.
    """
    if subsets < 1 or subset_size < 2:
        raise InputError(
            f"subsets = {subsets} of subset_size = {subset_size}: at least 1 of at least 2"
        )
    x, y = check_pair(real, fake, at_least=subset_size)
    rng = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        # The fakes are drawn first, as torch-fidelity's input 1.
        b = y[rng.choice(len(y), subset_size, replace=False)]
        a = x[rng.choice(len(x), subset_size, replace=False)]
        values.append(_within(a).mean() + _within(b).mean() - 2 * polynomial_kernel(a, b).mean())
    error = float(np.std(values, ddof=1) / np.sqrt(subsets)) if subsets > 1 else None
    return Estimate(float(np.mean(values)), error, min(len(x), len(y)))
