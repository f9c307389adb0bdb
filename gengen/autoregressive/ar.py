r"""AR(p): linear regression of a series on its own past. With p = 1 it is the Gauss-Markov chain.

Yule 1927, *On a Method of Investigating Periodicities in Disturbed Series* (Phil. Trans. A 226).

    x_t = c + Σ_i φ_i x_{t-i} + ε_t,    ε ~ N(0, σ²)

It is stable, and has a stationary distribution, if the roots of its companion matrix F lie inside
the unit circle; its mean is μ = c / (1 - Σφ), and the covariance Γ of p neighbours solves

    Γ = F Γ Fᵀ + σ² e_1 e_1ᵀ       (p = 1: σ² / (1 - φ²))

Fitted by least squares, or by the Yule-Walker equations: the biased autocovariances γ̂ of the series
in Σ_j γ_{i-j} φ_j = γ_i, whose solution is always stable. Both err by N(0, σ² Γ⁻¹ / T).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gengen import distributions as dist
from gengen import rng
from gengen.autoregressive.conditionals import check_positive
from gengen.types import Array, InputError, Key, PyTree, Shape, check_shape

HOW = ("least_squares", "yule_walker")


@dataclass(frozen=True)
class Config:
    """What is fitted, and how."""

    shape: Shape = (100,)  # of one example: (T,), a series
    p: int = 1  # how far back it looks, less than T
    how: str = "least_squares"  # or "yule_walker"

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        check_positive(self, "p")
        if len(self.shape) != 1 or self.shape[0] <= self.p:
            raise InputError(f"Config.shape = {self.shape}, but it is (T,), T above p = {self.p}")
        if self.how not in HOW:
            raise InputError(f"Config.how = {self.how!r}, not one of {HOW}")


def fit(x: ArrayLike, cfg: Config = Config()) -> PyTree:  # noqa: B008
    """Fit to series x [N, T] in float64: {"c": [], "phi": φ [p], "variance": σ² []}, float32.

    Raises:
        InputError: for another shape, numbers that are not finite, or a series without noise.
    """
    data = np.asarray(check_shape({"x": x}, cfg.shape), np.float64)
    if not np.isfinite(data).all():
        raise InputError("x holds numbers that are not finite")
    if data.size - len(data) * cfg.p <= cfg.p + 1 or np.ptp(data) == 0:
        raise InputError(f"x is constant, or too short to fit p + 2 = {cfg.p + 2} numbers to")
    c, phi, variance = (_least_squares if cfg.how == HOW[0] else _yule_walker)(data, cfg.p)
    found = {"c": c, "phi": phi, "variance": max(variance, 1e-30)}
    return {name: jnp.asarray(value, jnp.float32) for name, value in found.items()}


def _least_squares(x: np.ndarray, p: int) -> tuple[float, np.ndarray, float]:
    past = np.lib.stride_tricks.sliding_window_view(x, p, axis=1)[:, :-1, ::-1].reshape(-1, p)
    A, now = np.column_stack([np.ones(len(past)), past]), x[:, p:].reshape(-1)
    w = np.linalg.lstsq(A, now, rcond=None)[0]
    return w[0], w[1:], float(np.mean((now - A @ w) ** 2))


def _yule_walker(x: np.ndarray, p: int) -> tuple[float, np.ndarray, float]:
    mean, T = x.mean(), x.shape[1]
    d = x - mean
    gamma = np.array([np.mean(np.sum(d[:, lag:] * d[:, : T - lag], 1)) / T for lag in range(p + 1)])
    lags = np.abs(np.subtract.outer(np.arange(p), np.arange(p)))
    phi = np.linalg.solve(gamma[lags], gamma[1:])
    return mean * (1 - phi.sum()), phi, float(gamma[0] - phi @ gamma[1:])


# --- what a fitted model says --------------------------------------------------------------------


def companion(variables: PyTree) -> np.ndarray:
    """F [p, p], float64: (x_t, ..., x_{t-p+1}) = F (x_{t-1}, ..., x_{t-p}) + (c + ε_t, 0, ...)."""
    phi = np.asarray(variables["params"]["phi"], np.float64)
    return np.vstack([phi, np.eye(len(phi) - 1, len(phi))])


def is_stable(variables: PyTree) -> bool:
    """Whether all roots lie inside the unit circle: what happened long ago is forgotten."""
    return bool(np.abs(np.linalg.eigvals(companion(variables))).max() < 1)


def stationary(variables: PyTree) -> tuple[float, np.ndarray]:
    """The stationary mean μ, and the covariance Γ [p, p] of p neighbours, float64.

    Raises:
        InputError: if the model is not stable.
    """
    if not is_stable(variables):
        size = np.abs(np.linalg.eigvals(companion(variables))).max()
        raise InputError(f"a root of size {size:.4g} ≥ 1: this AR has no stationary distribution")
    p, F = variables["params"], companion(variables)
    noise = np.zeros_like(F)
    noise[0, 0] = p["variance"]
    vec = np.linalg.solve(np.eye(F.size) - np.kron(F, F), noise.ravel())
    return float(p["c"]) / (1 - F[0].sum()), vec.reshape(F.shape)


def log_prob(cfg: Config, variables: PyTree, x: ArrayLike) -> Array:
    """Ln p(x), exact, the first p from the stationary distribution, for x [N, T]: [N], in nats."""
    x = jnp.asarray(check_shape({"x": x}, cfg.shape))
    params, (mean, covariance) = variables["params"], stationary(variables)
    L = np.linalg.cholesky(covariance)
    first = (x[:, : cfg.p] - mean)[:, ::-1] @ jnp.asarray(np.linalg.inv(L).T, jnp.float32)
    log_std = 0.5 * jnp.log(params["variance"])
    past = sum(params["phi"][i] * x[:, cfg.p - 1 - i : -1 - i] for i in range(cfg.p))
    rest = dist.gaussian(x[:, cfg.p :], params["c"] + past, log_std)
    return dist.standard_normal(first) - float(np.log(np.diag(L)).sum()) + rest


def forecast(
    cfg: Config, variables: PyTree, x: ArrayLike, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """What follows series x [N, ≥ p]: the mean [N, steps] and standard deviation [steps], float64.

    Stable or not: what is given is all that counts.
    """
    past = np.asarray(x, np.float64)
    if past.ndim != 2 or past.shape[1] < cfg.p or steps < 1:
        raise InputError(f"x has shape {past.shape}, steps = {steps}: [N, ≥ {cfg.p}], at least 1")
    params, F = variables["params"], companion(variables)
    state, power = past[:, -cfg.p :][:, ::-1], np.eye(cfg.p)
    means, psi = [], []
    for _ in range(steps):
        now = float(params["c"]) + state @ F[0]
        state = np.column_stack([now, state[:, :-1]])
        means.append(now)
        psi.append(power[0, 0])  # what an ε so many steps ago adds to x
        power = F @ power
    return np.stack(means, 1), np.sqrt(float(params["variance"]) * np.cumsum(np.square(psi)))


def sample(cfg: Config, variables: PyTree, key: Key, num: int) -> Array:
    """Draw `num` stationary series: float32 [num, T]."""
    if num < 1:
        raise InputError(f"num = {num}, but at least 1 sample is drawn")
    mean, covariance = stationary(variables)
    L = jnp.asarray(np.linalg.cholesky(covariance), jnp.float32)
    eps, params = rng.normal(key, (num, *cfg.shape)), variables["params"]
    start = mean + eps[:, : cfg.p] @ L.T  # newest first

    def step(past: Array, eps: Array) -> tuple[Array, Array]:
        x = params["c"] + past @ params["phi"] + jnp.sqrt(params["variance"]) * eps
        return jnp.column_stack([x, past[:, :-1]]), x

    rest = jax.lax.scan(step, start, eps[:, cfg.p :].T)[1].T
    return jnp.concatenate([start[:, ::-1], rest], axis=1)
