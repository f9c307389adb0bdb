r"""Fréchet distance between the Gaussians that fit two sets of features.

Heusel et al. 2017, *GANs Trained by a Two Time-Scale Update Rule* (1706.08500), with the formula of
Dowson & Landau 1982:

    d² = ‖μ₁ - μ₂‖² + Tr Σ₁ + Tr Σ₂ - 2 Tr (Σ₁Σ₂)^½

The last trace is never made from a matrix's square root (slow, complex numbers, wrong where a
covariance is singular). With Σᵢ = HᵢᵀHᵢ it is a sum of singular values, and, where Σ₁ = LLᵀ is well
conditioned, of roots of eigenvalues, four times as fast:

    Tr (Σ₁Σ₂)^½ = ‖H₁H₂ᵀ‖_* = Σ √λ(LᵀΣ₂L)

With n < D examples their centred features are H. Everything is float64 on the host.

"FID" is this distance of InceptionV3's pool features of 50,000 images. Of another network it is
written `fid[mnist-v1]`. It is biased, the more the fewer the examples: compare sets of equal size
only, and with the floor, the same of as many real held-out examples; or use `fid_infinity`, of
Chong & Forsyth 2020 (1911.07023): the intercept of a straight line through d² over 1/N.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gengen.metrics.checks import check_features, check_pair
from gengen.metrics.estimate import Estimate
from gengen.metrics.resampling import of_mean
from gengen.metrics.statistics import Statistics, check_comparable, of_features
from gengen.types import InputError

# Largest rounding expected of the quick way, relative to the trace, before it is not believed.
_TRUSTED = 3e-9
_EPS = float(np.finfo(np.float64).eps)


def frechet_distance(mean1: Any, cov1: Any, mean2: Any, cov2: Any) -> float:
    """d² between N(mean1, cov1) and N(mean2, cov2), ≥ 0, in squared units of the features.

    Args:
        mean1: [D].
        cov1: [D, D], symmetric, perhaps singular.
        mean2: [D].
        cov2: [D, D].

    Raises:
        InputError: for shapes that do not fit, NaN, or what is no covariance.
    """
    host = lambda x: np.asarray(x, np.float64)  # noqa: E731
    return distance(Statistics(host(mean1), host(cov1)), Statistics(host(mean2), host(cov2)))


def distance(reference: Statistics, other: Statistics) -> float:
    """d² between two statistics. The reference keeps its factor: the next distance is quicker.

    Raises:
        InputError: if they are known to be of two networks.
    """
    check_comparable(reference, other)
    apart = reference.mean - other.mean
    traces = np.trace(reference.cov) + np.trace(other.cov)
    value = apart @ apart + traces - 2 * _trace_of_root(reference, other)
    return max(0.0, float(value))  # below 0 by rounding only


def _trace_of_root(a: Statistics, b: Statistics) -> float:
    """Tr (Σ₁Σ₂)^½."""
    if a.centred is None and b.centred is None and a.cholesky is not None:
        values = np.linalg.eigvalsh(a.cholesky.T @ b.cov @ a.cholesky)
        # The matrix M is known to an E of norm ε‖Σ₁‖‖Σ₂‖, and Tr (M+E)^½ - Tr M^½ = Tr M^{-½}E / 2
        # is at most that times the norm of M^{-½} / 2: much, if an eigenvalue is small.
        if values[0] > 0:
            trace = np.sqrt(values).sum()
            norm = _EPS * np.linalg.norm(a.cov) * np.linalg.norm(b.cov)
            if norm * np.sqrt(np.sum(1 / values)) / 2 <= _TRUSTED * trace:
                return float(trace)
    return float(np.linalg.svd(a.root @ b.root.T, compute_uv=False).sum())


def fid(*, real: Any, fake: Any) -> Estimate:
    """d² between two sets of features, with its standard error.

    The standard error is the infinitesimal jackknife's, of the choice of the fakes and, where their
    features are known, of the reals. It does not count the bias that depends on n, and it is too
    large, by a factor of √2 or so, where d² is near its floor.

    Args:
        real: [N, D]; or `Statistics`, which can be used again.
        fake: [M, D]; or `Statistics`, which leave no standard error.

    Raises:
        InputError: for sets of fewer than 2, NaN, or differing D.
    """
    if not isinstance(real, Statistics) and not isinstance(fake, Statistics):
        real, fake = check_pair(real, fake, 2)
    reference, other = (x if isinstance(x, Statistics) else _checked(x) for x in (real, fake))
    value = distance(reference, other)
    n = min((s.n for s in (reference, other) if s.n is not None), default=0)
    if isinstance(fake, Statistics):
        return Estimate(value, None, n)
    variance = _variance(reference, other, np.asarray(fake, np.float64))
    if not isinstance(real, Statistics):
        variance += _variance(other, reference, np.asarray(real, np.float64))
    return Estimate(value, float(np.sqrt(variance)), n)


def _checked(x: Any) -> Statistics:
    return of_features(check_features("fake", x, at_least=2))


def _variance(a: Statistics, b: Statistics, x: np.ndarray) -> float:
    """Squared standard error of d² by the choice of x [n, D], of which b are the statistics.

    With A = H₁Xᵀ/√(n-1), X centred, Tr (Σ₁Σ₂)^½ = Tr (AᵀA)^½: its diagonal q says what each example
    adds. A weight on an example multiplies a column of A by the weight's root, so that

        I_i = 2 (μ₂ - μ₁)ᵀx_i + (|x_i|² n/(n-1) - Tr Σ₂) - (n q_i - Tr (Σ₁Σ₂)^½)
    """
    n = len(x)
    centred = x - b.mean
    A = a.root @ centred.T / np.sqrt(n - 1)
    if n <= len(A):
        _, values, right = np.linalg.svd(A, full_matrices=False)
        q = values @ right**2
    else:
        squares, left = np.linalg.eigh(A @ A.T)
        kept = squares > len(squares) * _EPS * squares[-1]
        q = (1 / np.sqrt(squares[kept])) @ (left[:, kept].T @ A) ** 2
    size = np.einsum("nd,nd->n", centred, centred) * (n / (n - 1))
    return (of_mean(2 * centred @ (b.mean - a.mean) + size - n * q) or 0.0) ** 2


def fid_infinity(
    *, real: Any, fake: Any, smallest: int = 5000, sizes: int = 15, seed: int = 0
) -> Estimate:
    """FID∞: d² extrapolated to infinitely many fakes, by least squares on 1/N.

    Args:
        real: [N, D] or `Statistics`: taken as it is.
        fake: [M, D].
        smallest: fewest fakes of a fit; drawn without replacement, as for all sizes.
        sizes: fits, at sizes evenly spaced from `smallest` to M.
        seed: of the drawing.

    Returns:
        The intercept; its standard error is that of the least squares and that of d² of all fakes
        together.
    """
    reference = real if isinstance(real, Statistics) else of_features(check_pair(real, fake, 2)[0])
    x = check_features("fake", fake, at_least=2)
    if not 2 <= smallest < len(x) or sizes < 3:
        raise InputError(
            f"smallest = {smallest} and sizes = {sizes} of {len(x)} fakes, but a line needs 3 or "
            f"more sizes from 2 up to {len(x)}"
        )
    rng = np.random.default_rng(seed)
    counts = np.linspace(smallest, len(x), sizes).astype(int)
    values = [
        distance(reference, of_features(x[rng.choice(len(x), count, replace=False)]))
        for count in counts
    ]
    intercept, error = _intercept(1 / counts, np.array(values))
    of_all = fid(real=real, fake=x).standard_error or 0.0
    return Estimate(intercept, float(np.hypot(error, of_all)), len(x))


def _intercept(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Where the least-squares line meets x = 0, and the standard error of that."""
    design = np.stack([np.ones_like(x), x], axis=1)
    solution, *_ = np.linalg.lstsq(design, y, rcond=None)
    variance = np.sum((y - design @ solution) ** 2) / (len(x) - 2)
    return float(solution[0]), float(np.sqrt(variance * np.linalg.inv(design.T @ design)[0, 0]))
