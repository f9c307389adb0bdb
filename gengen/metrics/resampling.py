"""Standard errors from the sample itself: how a number would vary with other examples.

The group jackknife (Quenouille; Efron 1982) leaves out one of G groups at a time:

    s² = (G - 1)/G Σ_g (v_g - v̄)²

The infinitesimal jackknife sums the squared influences I_i = n ∂v/∂w_i of weights w_i of examples:

    s² = Σ I_i² / (n (n - 1))

Both are those of the delta method for smooth statistics. Where the first-order term vanishes, such
as for a distance between equal distributions, they are too large rather than too small. A bias that
depends on n, such as FID's, is not part of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

GROUPS = 10  # that are left out in turn


def groups_of(n: int, seed: int = 0) -> np.ndarray:
    """Return the group of each of n examples, in a seeded order: int [n], in 0..G - 1.

    There are `GROUPS`, or n if n is smaller, of sizes that differ by 1 at the most.
    """
    return np.random.default_rng(seed).permutation(np.arange(n) % min(GROUPS, n))


def jackknife(values: Any) -> np.ndarray:
    """Return the standard error from the values with each group left out, [G, ...]: [...]."""
    values = np.asarray(values, np.float64)
    spread = ((values - values.mean(axis=0)) ** 2).sum(axis=0)
    return np.asarray(np.sqrt(spread * (len(values) - 1) / len(values)))


def of_mean(values: Any) -> float | None:
    """Return the standard error of the mean of independent values [n]; None for fewer than 2.

    Of an influence function's values it is the infinitesimal jackknife.
    """
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return None
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def of_share(share: float, n: int) -> float:
    """Return the standard error of a share of n independent examples.

    It is that of (n·share + 1/2) / (n + 1), Jeffreys' estimate, so that it is not 0 for a share of
    0 or 1, where the binomial one would be.
    """
    p = (n * share + 0.5) / (n + 1)
    return float(np.sqrt(p * (1 - p) / n))
