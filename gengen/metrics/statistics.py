r"""Mean and covariance of features: what the Fréchet distance needs of a data set.

    μ = Σ x / n,    Σ = Σ (x - μ)(x - μ)ᵀ / (n - 1)

Streamed, so that no set of features need fit in memory: with c the first batch's mean, and δ = μ-c,

    s = Σ (x - c),    S = Σ (x - c)(x - c)ᵀ,    μ = c + s/n,    Σ = (S - n δδᵀ) / (n - 1)

The shift c keeps S free of the cancellation of Σxxᵀ - nμμᵀ: with products in float32 on the device
and sums in float64 on the host the relative error is about 1e-8, where raw float32 sums give 2e-4.

Files are pytorch-fid's `.npz`, arrays `mu` and `sigma`, with `n`, `extractor` and `sha256` (of the
extractor's weights) added; other tools ignore these, and nothing in a file is ever unpickled.
"""

from __future__ import annotations

import os
import warnings
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gengen.metrics.checks import check_features
from gengen.types import Array, InputError

# An eigenvalue below this times the largest, times D, is the rounding of zero.
_ROUNDING = float(np.finfo(np.float64).eps)
# What NumPy raises for a file that is missing, cut off, or something else: it has no one class.
_DAMAGE = (
    OSError, KeyError, ValueError, TypeError, EOFError, AttributeError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and covariance of features, with two factors of the covariance kept once made.

    Attributes:
        mean: float64 [D].
        cov: float64 [D, D], divided by n - 1.
        n: number of examples; None if a foreign file does not say.
        extractor: what made the features, "mnist-v1"; None if unknown.
        sha256: of the extractor's weights (hex); None if unknown.
        centred: (x - μ)/√(n-1), float64 [n, D], where n < D and the features were at hand.

    Raises:
        InputError: if the arrays do not fit, are not finite, or `cov` is not a covariance.
    """

    mean: np.ndarray
    cov: np.ndarray
    n: int | None = None
    extractor: str | None = None
    sha256: str | None = None
    centred: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Check the arrays."""
        mean, cov = self.mean, self.cov
        if mean.ndim != 1 or mean.size == 0 or cov.shape != (len(mean), len(mean)):
            raise InputError(
                f"mean has shape {mean.shape} and cov {cov.shape}: give [D] and [D, D]"
            )
        if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
            raise InputError("mean or cov holds NaN or infinity: look at the features")
        scale = np.abs(cov).max()
        if np.abs(cov - cov.T).max() > 1e-6 * scale or np.diag(cov).min() < -1e-6 * scale:
            raise InputError("cov is not a covariance: it must be symmetric with a diagonal ≥ 0")
        object.__setattr__(self, "mean", mean.astype(np.float64))
        object.__setattr__(self, "cov", (cov + cov.T) / 2.0)

    @cached_property
    def cholesky(self) -> np.ndarray | None:
        """L, lower triangular, Σ = LLᵀ; None if Σ is not numerically positive definite."""
        try:
            return np.linalg.cholesky(self.cov)
        except np.linalg.LinAlgError:
            return None

    @cached_property
    def root(self) -> np.ndarray:
        """H [r, D], Σ = HᵀH, r the rank: right where Σ is singular."""
        if self.centred is not None:
            return self.centred
        values, vectors = np.linalg.eigh(self.cov)
        kept = values > len(values) * _ROUNDING * values[-1]
        return np.sqrt(values[kept])[:, None] * vectors[:, kept].T


def of_features(
    features: Any, extractor: str | None = None, sha256: str | None = None
) -> Statistics:
    """Statistics of features that fit in memory, in float64.

    Args:
        features: [n, D], n ≥ 2.
        extractor: what made them.
        sha256: of its weights.
    """
    x = check_features("features", features, at_least=2)
    mean = x.mean(axis=0)
    centred = (x - mean) / np.sqrt(len(x) - 1)
    few = centred if len(x) < x.shape[1] else None
    return Statistics(mean, centred.T @ centred, len(x), extractor, sha256, few)


@jax.jit
def _sums(x: Array, count: Array, shift: Array) -> tuple[Array, Array]:
    """Σ (x-c) and Σ (x-c)(x-c)ᵀ over the first `count` rows."""
    rows = jnp.arange(x.shape[0])[:, None] < count
    d = jnp.where(rows, x - shift, 0.0)
    return d.sum(0), jnp.matmul(d.T, d, precision="highest")


class Accumulator:
    """Sums for the statistics of features that come batch by batch.

    The first batch fixes the size that is compiled: a smaller one is padded, a larger one cut up.
    """

    def __init__(self) -> None:
        self.n = 0
        self._shift = self._total = self._scatter = np.zeros(0)
        self._size = 0

    def add(self, features: Any) -> None:
        """Take in a batch, [B, D] float, on the device or the host.

        Raises:
            InputError: if it is not finite, or of another D than the first.
        """
        x = np.asarray(check_features("features", features), np.float32)
        if self.n == 0:
            self._size, dims = x.shape
            self._shift = x.mean(axis=0, dtype=np.float64).astype(np.float32)
            self._total, self._scatter = np.zeros(dims), np.zeros((dims, dims))
        if x.shape[1] != len(self._shift):
            raise InputError(
                f"a batch has {x.shape[1]} features, the ones before {len(self._shift)}: "
                "use one extractor"
            )
        for start in range(0, len(x), self._size):
            part = x[start : start + self._size]
            padded = np.pad(part, ((0, self._size - len(part)), (0, 0)))
            total, scatter = _sums(padded, jnp.int32(len(part)), self._shift)
            self._total += np.asarray(total, np.float64)
            self._scatter += np.asarray(scatter, np.float64)
            self.n += len(part)

    def statistics(self, extractor: str | None = None, sha256: str | None = None) -> Statistics:
        """Mean and covariance of all that was added.

        Raises:
            InputError: if that was fewer than 2 examples.
        """
        if self.n < 2:
            raise InputError(f"{self.n} examples were added: a covariance needs at least 2")
        delta = self._total / self.n
        cov = (self._scatter - self.n * np.outer(delta, delta)) / (self.n - 1)
        return Statistics(self._shift + delta, cov, self.n, extractor, sha256)


def accumulate(
    batches: Iterable[Any], extractor: str | None = None, sha256: str | None = None
) -> Statistics:
    """Statistics of all batches of features [B, D]; the arguments of `of_features`."""
    sums = Accumulator()
    for features in batches:
        sums.add(features)
    return sums.statistics(extractor, sha256)


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Statistics of two sets together, those of two processes, say (Chan et al. 1979).

    Raises:
        InputError: if either does not know its n, or they are of two extractors.
    """
    check_comparable(a, b)
    if a.n is None or b.n is None:
        raise InputError("statistics without n cannot be merged: make them anew from features")
    n, apart = a.n + b.n, b.mean - a.mean
    scatter = a.cov * (a.n - 1) + b.cov * (b.n - 1)
    scatter += np.outer(apart, apart) * (a.n * b.n / n)
    return Statistics(a.mean + apart * (b.n / n), scatter / (n - 1), n, a.extractor, a.sha256)


def check_comparable(a: Statistics, b: Statistics) -> None:
    """Refuse two statistics of which it is known that different networks made them.

    Raises:
        InputError: for differing D, hashes or extractors.
    """
    if len(a.mean) != len(b.mean):
        raise InputError(
            f"one has {len(a.mean)} features and the other {len(b.mean)}: use one extractor"
        )
    for name, one, other in (
        ("weights", a.sha256, b.sha256),
        ("extractor", a.extractor, b.extractor),
    ):
        if one and other and one != other:
            raise InputError(
                f"statistics of two networks ({name} {one[:16]} and {other[:16]}) cannot be "
                "compared: make both with one"
            )


def save(path: str | Path, statistics: Statistics) -> None:
    """Write pytorch-fid's `.npz`, whole or not at all.

    Raises:
        InputError: if the name does not end in .npz.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise InputError(f"{path}: the name must end in .npz")
    found = {k: getattr(statistics, k) for k in ("n", "extractor", "sha256")}
    extras: dict[str, Any] = {k: np.array(v) for k, v in found.items() if v is not None}
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, mu=statistics.mean, sigma=statistics.cov, **extras)
    os.replace(part, path)


def load(path: str | Path) -> Statistics:
    """Read a `.npz` of pytorch-fid's or ours; warns if it does not say what made it.

    Raises:
        InputError: if it is missing, damaged, or holds other things.
    """
    path = Path(path)
    try:
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            found = {k: file[k] for k in ("mu", "sigma", "n", "extractor", "sha256") if k in file}
        mean, cov = found.pop("mu").astype(np.float64), found.pop("sigma").astype(np.float64)
        n = int(found["n"]) if "n" in found else None
        extractor, sha256 = (str(found[k]) if k in found else None for k in ("extractor", "sha256"))
    except _DAMAGE as error:
        line = " ".join(str(error).split())[:120]
        raise InputError(f"{path} holds no statistics, mu and sigma ({line})") from None
    missing = [k for k, v in (("n", n), ("extractor", extractor), ("sha256", sha256)) if v is None]
    if missing:
        warnings.warn(
            f"{path} does not say its {', '.join(missing)}: nothing guards against comparing "
            "features of two networks or resizings",
            stacklevel=2,
        )
    return Statistics(mean, cov, n, extractor, sha256)
