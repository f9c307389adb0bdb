r"""How far apart two laws are, in float64, from their probabilities, moments or samples.

Of probabilities p, q (or densities on a grid whose cells have volume dx, sums becoming integrals):

    KL(p ‖ q)     Σ p ln(p/q)                     JS    ½ KL(p ‖ m) + ½ KL(q ‖ m),  m = (p+q)/2
    Pearson χ²    Σ (p-q)²/q                      TV    ½ Σ |p-q|
    H²            ½ Σ (√p-√q)²                    D_f   Σ q f(p/q),  f convex, f(1) = 0

all of them D_f for some f, in nats where there is a logarithm. KL and χ² are +inf, which is
no error, where p has mass and q has none: they say nothing about how far apart such laws are. The
Wasserstein distances do, as they look at the distances between points:

    W₁(p, q) = min_π Σ π_ij c_ij  over joint laws π of p and q            (what is moved, how far)
             = max_{f,g} Σ p_i f_i + Σ q_j g_j,  f_i + g_j ≤ c_ij         (Kantorovich's dual)

as does MMD² = E k(x,x') + E k(y,y') - 2 E k(x,y) of samples. Sliced Wasserstein distances are in
`gengen.metrics.sliced`, the polynomial kernel's MMD in `gengen.metrics.kid`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gengen.metrics.checks import check_features, check_pair
from gengen.metrics.fid import frechet_distance
from gengen.types import InputError

SUM_TOLERANCE = 1e-2  # that probabilities may miss 1 by: a grid cuts off tails


# --- of probabilities ----------------------------------------------------------------------------


def kl(p: Any, q: Any, dx: float = 1.0) -> float:
    """KL(p ‖ q) in nats; +inf where q has no mass and p has.

    Args:
        p: probabilities, or densities on a grid, of any shape.
        q: of the same shape.
        dx: volume of a cell of the grid; 1: probabilities.

    Raises:
        InputError: for negative numbers, NaN, differing shapes, or sums far from 1.
    """
    p, q = _laws(p, q, dx)
    if np.any((p > 0) & (q == 0)):
        return float("inf")
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / q[some])) * dx)


def js(p: Any, q: Any, dx: float = 1.0) -> float:
    """Jensen–Shannon divergence in nats, symmetric, at most ln 2; arguments of `kl`."""
    p, q = _laws(p, q, dx)
    m = (p + q) / 2
    return kl(p, m, dx) / 2 + kl(q, m, dx) / 2


def pearson_chi2(p: Any, q: Any, dx: float = 1.0) -> float:
    """Σ (p-q)²/q; +inf where q has no mass and p has. Arguments of `kl`."""
    p, q = _laws(p, q, dx)
    if np.any((p > 0) & (q == 0)):
        return float("inf")
    some = q > 0
    return float(np.sum((p[some] - q[some]) ** 2 / q[some]) * dx)


def total_variation(p: Any, q: Any, dx: float = 1.0) -> float:
    """½ Σ |p-q|, in [0, 1]: the largest difference of an event's probabilities. As `kl`."""
    p, q = _laws(p, q, dx)
    return float(np.abs(p - q).sum() * dx / 2)


def squared_hellinger(p: Any, q: Any, dx: float = 1.0) -> float:
    """½ Σ (√p-√q)², in [0, 1]; arguments of `kl`."""
    p, q = _laws(p, q, dx)
    return float(np.sum((np.sqrt(p) - np.sqrt(q)) ** 2) * dx / 2)


def f_divergence(
    f: Callable[[np.ndarray], np.ndarray],
    p: Any,
    q: Any,
    dx: float = 1.0,
    slope: float = float("inf"),
) -> float:
    """D_f(p ‖ q) = Σ q f(p/q).

    Args:
        f: convex on [0, ∞), f(1) = 0; given arrays. t ln t is KL, (t-1)² is Pearson χ².
        p: as of `kl`.
        q: as of `kl`.
        dx: as of `kl`.
        slope: lim f(t)/t as t → ∞: what p weighs where q has no mass.
    """
    p, q = _laws(p, q, dx)
    some = q > 0
    alone = float(p[~some].sum())
    rest = slope * alone if alone > 0 else 0.0
    return float((np.sum(q[some] * f(p[some] / q[some])) + rest) * dx)


def self_information(p: Any, dx: float = 1.0) -> np.ndarray:
    """Return -ln p(x) in nats for each x, in the shape of p; +inf where p is 0.

    Its mean under p is `entropy`. Of densities it may be negative. Arguments of `kl`.
    """
    p = _law("p", p, dx)
    return -np.log(p, out=np.full(p.shape, -np.inf), where=p > 0)


def entropy(p: Any, dx: float = 1.0) -> float:
    """-Σ p ln p in nats: of densities on a grid the differential entropy. Arguments of `kl`."""
    p = _law("p", p, dx)
    some = p > 0
    return float(-np.sum(p[some] * np.log(p[some])) * dx)


def information(joint: Any) -> float:
    """I(X; Y) = KL(p(x, y) ‖ p(x) p(y)) in nats, of a table of probabilities [K, L]."""
    joint = _law("joint", joint, 1.0)
    if joint.ndim != 2:
        raise InputError(f"joint has shape {joint.shape}: it is a table [K, L]")
    return kl(joint, joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True))


def _laws(p: Any, q: Any, dx: float) -> tuple[np.ndarray, np.ndarray]:
    p, q = _law("p", p, dx), _law("q", q, dx)
    if p.shape != q.shape:
        raise InputError(f"p has shape {p.shape} and q {q.shape}: give both on one set or grid")
    return p, q


def _law(name: str, p: Any, dx: float) -> np.ndarray:
    p = np.asarray(p, np.float64)
    if not dx > 0:
        raise InputError(f"dx = {dx}, but the volume of a cell is positive")
    if p.size == 0 or not np.isfinite(p).all() or p.min() < 0:
        raise InputError(f"{name} has shape {p.shape}: give at least one, none negative or NaN")
    if abs(p.sum() * dx - 1) > SUM_TOLERANCE:
        raise InputError(
            f"{name} sums to {p.sum() * dx:.6g}: divide by the sum, or on a grid give dx and let "
            "it reach into the tails"
        )
    return p


# --- of Gaussians --------------------------------------------------------------------------------


def kl_normal(mean0: Any, cov0: Any, mean1: Any, cov1: Any) -> float:
    """KL(N(mean0, cov0) ‖ N(mean1, cov1)) in nats, for means [D] and covariances [D, D].

    ½ (tr Σ₁⁻¹Σ₀ + (μ₁-μ₀)ᵀ Σ₁⁻¹ (μ₁-μ₀) - D + ln |Σ₁|/|Σ₀|); +inf where Σ₀ is singular. Of
    N(0, I) as the second: -½ Σ (1 + ln σ² - μ² - σ²) for a diagonal Σ₀.

    Raises:
        InputError: for shapes that do not fit, or a cov1 that is not positive definite.
    """
    mean0, cov0 = _moments("0", mean0, cov0)
    mean1, cov1 = _moments("1", mean1, cov1)
    if mean0.shape != mean1.shape:
        raise InputError(f"mean0 has shape {mean0.shape} and mean1 {mean1.shape}: make them equal")
    try:
        L = np.linalg.cholesky(cov1)
    except np.linalg.LinAlgError:
        raise InputError("cov1 is not positive definite: the divergence has no value") from None
    white = np.linalg.solve(L, np.linalg.solve(L, cov0).T)  # L⁻¹ Σ₀ L⁻ᵀ
    sign, log_det = np.linalg.slogdet(white)
    if sign <= 0:
        return float("inf")
    shift = np.linalg.solve(L, mean1 - mean0)
    return float(0.5 * (np.trace(white) + shift @ shift - len(shift) - log_det))


def wasserstein2_normal(mean0: Any, cov0: Any, mean1: Any, cov1: Any) -> float:
    """W₂ of two Gaussians, for means [D] and covariances [D, D]: the root of Fréchet's distance."""
    return float(np.sqrt(frechet_distance(mean0, cov0, mean1, cov1)))


def _moments(which: str, mean: Any, cov: Any) -> tuple[np.ndarray, np.ndarray]:
    mean, cov = np.asarray(mean, np.float64), np.asarray(cov, np.float64)
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
        raise InputError(
            f"mean{which} has shape {mean.shape} and cov{which} {cov.shape}: they are [D], [D, D]"
        )
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise InputError(f"mean{which} or cov{which} has NaN or infinity: find out why")
    if not np.allclose(cov, cov.T, atol=1e-6 * (1e-30 + np.abs(cov).max())):
        raise InputError(f"cov{which} is not symmetric: give (C + Cᵀ)/2")
    return mean, cov


# --- by the distance of points -------------------------------------------------------------------


def wasserstein1(x: Any, y: Any) -> float:
    """W₁ of two samples on the line, ∫ |F_x - F_y|: x [N], y [M]."""
    x, y = (np.sort(check_features(name, _column(a))[:, 0]) for name, a in (("x", x), ("y", y)))
    points = np.sort(np.concatenate([x, y]))
    below = [np.searchsorted(a, points[:-1], side="right") / len(a) for a in (x, y)]
    return float(np.sum(np.abs(below[0] - below[1]) * np.diff(points)))


def _column(x: Any) -> np.ndarray:
    x = np.asarray(x)
    if x.ndim != 1:
        raise InputError(f"a sample on the line is [N], not {x.shape}")
    return x[:, None]


def transport(p: Any, q: Any, cost: Any) -> tuple[float, np.ndarray]:
    """The cheapest way to bring p [K] to q [L]: W₁ where the cost is a distance.

    Args:
        p: probabilities.
        q: probabilities.
        cost: of bringing a unit of mass from i to j, [K, L].

    Returns:
        The least cost, and the plan π [K, L] that has it, with the sums p and q.
    """
    from scipy.optimize import linprog

    p, q, cost = _problem(p, q, cost)
    K, L = cost.shape
    rows = np.kron(np.eye(K), np.ones(L))  # Σ_j π_ij = p_i
    columns = np.kron(np.ones(K), np.eye(L))  # Σ_i π_ij = q_j
    # The last equation follows from the others: left out, so that rounding cannot contradict it.
    found = linprog(
        cost.ravel(), A_eq=np.vstack([rows, columns])[:-1], b_eq=np.concatenate([p, q])[:-1]
    )
    return float(found.fun), found.x.reshape(K, L)


def kantorovich(p: Any, q: Any, cost: Any) -> tuple[float, np.ndarray, np.ndarray]:
    """The dual of `transport`, whose arguments these are.

    Returns:
        The largest Σ p f + Σ q g with f_i + g_j ≤ c_ij, which is the least cost, and f [K], g [L].
        Where the cost is a distance on one set, -g can be taken equal to f: a WGAN's critic.
    """
    from scipy.optimize import linprog

    p, q, cost = _problem(p, q, cost)
    K, L = cost.shape
    pairs = np.hstack([np.kron(np.eye(K), np.ones((L, 1))), np.tile(np.eye(L), (K, 1))])
    bounds = [(None, None)] * (K + L - 1) + [(0, 0)]  # a constant is free: f + t, g - t
    found = linprog(-np.concatenate([p, q]), A_ub=pairs, b_ub=cost.ravel(), bounds=bounds)
    return float(-found.fun), found.x[:K], found.x[K:]


def _problem(p: Any, q: Any, cost: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    p, q = _law("p", p, 1.0), _law("q", q, 1.0)
    cost = np.asarray(cost, np.float64)
    if p.ndim != 1 or q.ndim != 1 or cost.shape != (len(p), len(q)):
        raise InputError(
            f"p, q and cost have shapes {p.shape}, {q.shape}, {cost.shape}: [K], [L], [K, L]"
        )
    if not np.isfinite(cost).all():
        raise InputError("cost has NaN or infinity: give a large finite number for what is closed")
    return p / p.sum(), q / q.sum(), cost


def mmd(x: Any, y: Any, bandwidth: float | None = None, biased: bool = False) -> float:
    """MMD² of samples x [N, D], y [M, D], by the kernel exp(-‖x-y‖²/(2h²)).

    Args:
        x: N ≥ 2.
        y: M ≥ 2.
        bandwidth: h; None: the median distance of two points of both sets together.
        biased: count each point's kernel with itself, so that it is at least 0 (Gretton et al.
            2012's V-statistic); the other, the U-statistic, has mean 0 where the laws are one.

    Raises:
        InputError: for fewer, NaN, differing D, a bandwidth that is not positive.
    """
    x, y = check_pair(x, y, at_least=2)
    n, m = len(x), len(y)
    both = np.concatenate([x, y])
    square = np.maximum(_squares(both, both), 0)
    if bandwidth is None:
        bandwidth = float(np.sqrt(np.median(square[np.triu_indices(n + m, 1)]))) or 1.0
    if not bandwidth > 0:
        raise InputError(f"bandwidth = {bandwidth}, but it is positive")
    k = np.exp(-square / (2 * bandwidth**2))
    if biased:
        return float(k[:n, :n].mean() + k[n:, n:].mean() - 2 * k[:n, n:].mean())
    np.fill_diagonal(k, 0)
    within = k[:n, :n].sum() / (n * (n - 1)) + k[n:, n:].sum() / (m * (m - 1))
    return float(within - 2 * k[:n, n:].mean())


def _squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
