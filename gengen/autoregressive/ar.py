r"""AR(p): linear regression of a series on its own past. With p = 1 it is the Gauss-Markov chain.

Yule 1927, *On a Method of Investigating Periodicities in Disturbed Series* (Phil. Trans. A 226).

    x_t = c + Σ_i φ_i x_{t-i} + ε_t,    ε ~ N(0, σ²)

It is stable, and has a stationary distribution, if the eigenvalues of its companion matrix F lie
inside the unit circle. The mean is μ = c / (1 - Σφ), and the covariance Γ of p neighbours solves

    Γ = F Γ Fᵀ + σ² e_1 e_1ᵀ       (p = 1: σ² / (1 - φ²))

Estimators of φ, all with the error N(0, σ² Γ⁻¹ / T) for long series:

    burg           reflection coefficients, one after the other (Burg 1975): always stable
    yule_walker    Σ_j γ_{i-j} φ_j = γ_i with the biased autocovariances: always stable, but
                   biased by order p/T, which is much for many short series
    least_squares  not always stable

An image is a series too: its H·W·C numbers row by row, each pixel's channels in turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gengen import distributions as dist
from gengen import rng
from gengen.autoregressive.conditionals import check_positive
from gengen.contract import BaseConfig, Task, refuse_condition, require_num
from gengen.contract import unconditional as condition_of
from gengen.types import Array, InputError, Key, PyTree, Shape, check_shape

__all__ = [
    "ESTIMATORS", "Config", "companion", "condition_of", "fit", "forecast", "is_stable",
    "log_prob", "sample", "stationary",
]  # fmt: skip

LOG_PROB = "exact"
ESTIMATORS = ("burg", "yule_walker", "least_squares")
MAX_ORDER = 48  # of the default for images


@dataclass(frozen=True)
class Config(BaseConfig):
    """The model and its fit."""

    shape: Shape = (100,)  # of one example: (T,), or (H, W, C), a series of T = H·W·C numbers
    order: int = 1  # p, less than T
    estimator: str = "burg"  # or "yule_walker", "least_squares"

    RENAMED: ClassVar[dict[str, str | None]] = {"p": "order", "how": "estimator"}

    @classmethod
    def paper(cls) -> Self:
        """Return the paper's model of the yearly sunspot numbers 1749-1924: AR(2)."""
        return cls(shape=(176,), order=2, estimator="least_squares")

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default; for an image, numbers depend on as many as a row has before them.

        Raises:
            InputError: for data of one dimension.
        """
        if len(task.shape) == 1:
            return cls(shape=task.shape)
        row = task.shape[1] * task.shape[2]
        return cls(shape=task.shape, order=min(row, MAX_ORDER, row * task.shape[0] - 1))

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        check_positive(self, "order")
        if len(self.shape) not in (1, 3) or min(self.shape) < 1:
            raise InputError(f"Config.shape = {self.shape}; it must be (T,) or (H, W, C)")
        if length(self) <= self.order:
            raise InputError(
                f"Config.shape = {self.shape} is a series of {length(self)} numbers; it must be "
                f"longer than order = {self.order}"
            )
        if self.estimator not in ESTIMATORS:
            raise InputError(
                f"Config.estimator = {self.estimator!r}; it must be one of {', '.join(ESTIMATORS)}"
            )


def length(cfg: Config) -> int:
    """Return the number T of values in a series."""
    return int(np.prod(cfg.shape))


def fit(cfg: Config, x: ArrayLike, key: Key) -> PyTree:
    """Fit to series x [N, *shape], in float64.

    Args:
        cfg: of the model.
        x: the data.
        key: not used.

    Returns:
        The variables; "params" are c [], phi φ [p] and variance σ² [], in float32.

    Raises:
        InputError: for another shape, non-finite numbers, or a constant or too short series.
    """
    data = np.asarray(check_shape({"x": x}, cfg.shape), np.float64)
    data, p = data.reshape(len(data), -1), cfg.order
    if not np.isfinite(data).all():
        raise InputError("x has non-finite numbers")
    if np.ptp(data) == 0:
        raise InputError("x is constant: there is nothing to fit")
    if data.size - len(data) * p <= p + 1:
        raise InputError(f"x is too short to fit the order + 2 = {p + 2} parameters to")
    if cfg.estimator == "least_squares":
        c, phi, variance = _least_squares(data, p)
    else:
        mean = data.mean()
        phi, variance = (_burg if cfg.estimator == "burg" else _yule_walker)(data - mean, p)
        phi = _stable_in_float32(phi)
        c = mean * (1 - phi.sum())
    found = {"c": c, "phi": phi, "variance": max(variance, 1e-30)}
    return {"params": {name: jnp.asarray(value, jnp.float32) for name, value in found.items()}}


def _burg(d: np.ndarray, p: int) -> tuple[np.ndarray, float]:
    """Return φ and σ² of series [N, T] of mean 0, by forward and backward prediction errors."""
    forward = backward = d
    a, variance = np.ones(1), float(np.mean(d**2))  # x_t = -Σ a_i x_{t-i} + ε_t
    for _ in range(p):
        f, b = forward[:, 1:], backward[:, :-1]
        power = np.sum(f**2 + b**2)
        k = -2 * np.sum(f * b) / power if power > 0 else 0.0  # in [-1, 1]
        forward, backward = f + k * b, b + k * f
        a = np.append(a, 0) + k * np.append(a, 0)[::-1]
        variance *= 1 - k**2
    return -a[1:], variance


def _yule_walker(d: np.ndarray, p: int) -> tuple[np.ndarray, float]:
    """Return φ and σ² of series [N, T] of mean 0."""
    T = d.shape[1]
    gamma = np.array([np.mean(np.sum(d[:, lag:] * d[:, : T - lag], 1)) / T for lag in range(p + 1)])
    lags = np.abs(np.subtract.outer(np.arange(p), np.arange(p)))
    phi = np.linalg.solve(gamma[lags], gamma[1:])
    return phi, float(gamma[0] - phi @ gamma[1:])


def _stable_in_float32(phi: np.ndarray) -> np.ndarray:
    """Return φ, or φ_i r^i with r < 1, so that rounding to float32 leaves the model stable."""
    margin, found = 1e-6, phi
    while not is_stable({"params": {"phi": np.float32(found)}}):
        found = phi * (1 - margin) ** np.arange(1, len(phi) + 1)
        margin *= 2
    return found


def _least_squares(x: np.ndarray, p: int) -> tuple[float, np.ndarray, float]:
    past = np.lib.stride_tricks.sliding_window_view(x, p, axis=1)[:, :-1, ::-1].reshape(-1, p)
    A, now = np.column_stack([np.ones(len(past)), past]), x[:, p:].reshape(-1)
    w = np.linalg.lstsq(A, now, rcond=None)[0]
    return w[0], w[1:], float(np.mean((now - A @ w) ** 2))


# --- a fitted model ------------------------------------------------------------------------------


def companion(variables: PyTree) -> np.ndarray:
    """Return F [p, p], float64: s_t = F s_{t-1} + (c + ε_t, 0, ...), s_t = (x_t ... x_{t-p+1})."""
    phi = np.asarray(variables["params"]["phi"], np.float64)
    return np.vstack([phi, np.eye(len(phi) - 1, len(phi))])


def is_stable(variables: PyTree) -> bool:
    """Return whether all eigenvalues of F lie inside the unit circle."""
    return bool(np.abs(np.linalg.eigvals(companion(variables))).max() < 1)


def stationary(variables: PyTree) -> tuple[float, np.ndarray]:
    """Return the stationary mean μ, and the covariance Γ [p, p] of p neighbours, float64.

    Raises:
        InputError: if the model is not stable.
    """
    if not is_stable(variables):
        size = np.abs(np.linalg.eigvals(companion(variables))).max()
        raise InputError(
            f"an eigenvalue of size {size:.4g} ≥ 1: this AR has no stationary distribution; fit it "
            'with estimator = "burg", which is always stable'
        )
    p, F = variables["params"], companion(variables)
    noise = np.zeros_like(F)
    noise[0, 0] = p["variance"]
    vec = np.linalg.solve(np.eye(F.size) - np.kron(F, F), noise.ravel())
    return float(p["c"]) / (1 - F[0].sum()), vec.reshape(F.shape)


def log_prob(
    cfg: Config,
    variables: PyTree,
    x: ArrayLike,
    key: Key | None = None,
    *,
    condition: PyTree = None,
) -> Array:
    """Return ln p(x): [B], in nats; the first p numbers have the stationary distribution.

    Args:
        cfg: of the model.
        variables: fitted.
        x: [B, *shape].
        key: not used.
        condition: None, as the model is unconditional.
    """
    refuse_condition(condition)
    x = jnp.asarray(check_shape({"x": x}, cfg.shape))
    x, p = x.reshape(len(x), -1), cfg.order
    params, (mean, covariance) = variables["params"], stationary(variables)
    L = np.linalg.cholesky(covariance)
    first = (x[:, :p] - mean)[:, ::-1] @ jnp.asarray(np.linalg.inv(L).T, jnp.float32)
    log_std = 0.5 * jnp.log(params["variance"])
    past = sum(params["phi"][i] * x[:, p - 1 - i : -1 - i] for i in range(p))
    rest = dist.gaussian(x[:, p:], params["c"] + past, log_std)
    return dist.standard_normal(first) - float(np.log(np.diag(L)).sum()) + rest


def forecast(
    cfg: Config, variables: PyTree, x: ArrayLike, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean [N, steps] and standard deviation [steps] of what follows, in float64.

    The model need not be stable.

    Args:
        cfg: of the model.
        variables: fitted.
        x: series [N, p or more].
        steps: number of values to forecast.

    Raises:
        InputError: for another shape of x, or no steps.
    """
    past, p = np.asarray(x, np.float64), cfg.order
    if past.ndim != 2 or past.shape[1] < p:
        raise InputError(f"x has shape {past.shape}; it must be [N, {p} or more]")
    if steps < 1:
        raise InputError(f"steps = {steps}; it must be at least 1")
    params, F = variables["params"], companion(variables)
    state, power = past[:, -p:][:, ::-1], np.eye(p)
    means, psi = [], []
    for _ in range(steps):
        now = float(params["c"]) + state @ F[0]
        state = np.column_stack([now, state[:, :-1]])
        means.append(now)
        psi.append(power[0, 0])  # the effect on x of an ε so many steps ago
        power = F @ power
    return np.stack(means, 1), np.sqrt(float(params["variance"]) * np.cumsum(np.square(psi)))


def sample(
    cfg: Config, variables: PyTree, key: Key, num: int, *, condition: PyTree = None
) -> Array:
    """Sample stationary series: float32 [num, *shape], images clipped to [-1, 1].

    Args:
        cfg: of the model.
        variables: fitted.
        key: of the noise.
        num: number of samples.
        condition: None, as the model is unconditional.

    Raises:
        InputError: if the model is not stable, as one fitted by least squares may be.
    """
    refuse_condition(condition)
    require_num(num)
    mean, covariance = stationary(variables)
    L = jnp.asarray(np.linalg.cholesky(covariance), jnp.float32)
    eps, params = rng.normal(key, (num, length(cfg))), variables["params"]
    start = mean + eps[:, : cfg.order] @ L.T  # newest first

    def step(past: Array, eps: Array) -> tuple[Array, Array]:
        x = params["c"] + past @ params["phi"] + jnp.sqrt(params["variance"]) * eps
        return jnp.column_stack([x, past[:, :-1]]), x

    rest = jax.lax.scan(step, start, eps[:, cfg.order :].T)[1].T
    x = jnp.concatenate([start[:, ::-1], rest], axis=1).reshape(num, *cfg.shape)
    return jnp.clip(x, -1, 1) if len(cfg.shape) == 3 else x
