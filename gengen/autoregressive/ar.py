r"""AR(p): linear regression of a series on its own past. AR(1) is the Gauss-Markov chain.

Yule 1927, *On a Method of Investigating Periodicities in Disturbed Series* (Phil. Trans. A 226).

    x_t = c + Σ_i φ_i x_{t-i} + ε_t,    ε ~ N(0, σ²)

The process is stable, and has a stationary distribution, if the eigenvalues of its companion matrix
F lie inside the unit circle. Its mean is μ = c / (1 - Σφ); the covariance Γ of p neighbours solves

    Γ = F Γ Fᵀ + σ² e_1 e_1ᵀ       (p = 1: σ² / (1 - φ²))

It is fitted by least squares, or by the Yule-Walker equations Σ_j γ_{i-j} φ_j = γ_i with the biased
autocovariances γ̂ of the series, whose solution is always stable. The error of both estimators is
N(0, σ² Γ⁻¹ / T) for long series.
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
    "Config", "companion", "condition_of", "fit", "forecast", "is_stable", "log_prob", "sample",
    "stationary",
]  # fmt: skip

LOG_PROB = "exact"
ESTIMATORS = ("least_squares", "yule_walker")


@dataclass(frozen=True)
class Config(BaseConfig):
    """Data, order and estimator."""

    shape: Shape = (100,)  # of one example: (T,), a series
    order: int = 1  # p, the number of past values that a value depends on; less than T
    estimator: str = "least_squares"  # or "yule_walker"

    RENAMED: ClassVar[dict[str, str | None]] = {"p": "order", "how": "estimator"}

    @classmethod
    def paper(cls) -> Self:
        """Return the model of the paper: AR(2) of the 176 yearly sunspot numbers of 1749-1924."""
        return cls(shape=(176,), order=2, estimator="least_squares")

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for series of any length above 1.

        Raises:
            InputError: for images, and for vectors of one number.
        """
        if len(task.shape) != 1:
            raise InputError(
                "ar models series, an array [N, T]; images are modelled by pixelcnn, pixelrnn, "
                "realnvp, made, ..."
            )
        return cls(shape=task.shape)

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        check_positive(self, "order")
        if len(self.shape) != 1 or self.shape[0] <= self.order:
            raise InputError(
                f"Config.shape = {self.shape}; it must be (T,), a series longer than order = "
                f"{self.order}"
            )
        if self.estimator not in ESTIMATORS:
            raise InputError(
                f"Config.estimator = {self.estimator!r}; it must be one of {ESTIMATORS}"
            )


def fit(cfg: Config, x: ArrayLike, key: Key) -> PyTree:
    """Fit to series x [N, T] in float64.

    Args:
        cfg: of the model.
        x: the series.
        key: unused.

    Returns:
        {"params": {"c": [], "phi": φ [p], "variance": σ² []}}, float32.

    Raises:
        InputError: for another shape, numbers that are not finite, or a series without noise.
    """
    data = np.asarray(check_shape({"x": x}, cfg.shape), np.float64)
    if not np.isfinite(data).all():
        raise InputError("x holds numbers that are not finite")
    p = cfg.order
    if data.size - len(data) * p <= p + 1 or np.ptp(data) == 0:
        raise InputError(f"x is constant, or too short to fit order + 2 = {p + 2} numbers to")
    estimate = _least_squares if cfg.estimator == ESTIMATORS[0] else _yule_walker
    c, phi, variance = estimate(data, p)
    found = {"c": c, "phi": phi, "variance": max(variance, 1e-30)}
    return {"params": {name: jnp.asarray(value, jnp.float32) for name, value in found.items()}}


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


# --- a fitted model ------------------------------------------------------------------------------


def companion(variables: PyTree) -> np.ndarray:
    """Return the companion matrix F [p, p], float64.

    (x_t, ..., x_{t-p+1}) = F (x_{t-1}, ..., x_{t-p}) + (c + ε_t, 0, ..., 0).
    """
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
            f"an eigenvalue has modulus {size:.4g}, not below 1: this AR has no stationary "
            "distribution"
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
    """Return ln p(x) for series x [N, T]: [N], in nats. `key` is unused.

    The first p values have the stationary distribution.
    """
    refuse_condition(condition)
    x = jnp.asarray(check_shape({"x": x}, cfg.shape))
    params, (mean, covariance) = variables["params"], stationary(variables)
    L = np.linalg.cholesky(covariance)
    p = cfg.order
    first = (x[:, :p] - mean)[:, ::-1] @ jnp.asarray(np.linalg.inv(L).T, jnp.float32)
    log_std = 0.5 * jnp.log(params["variance"])
    past = sum(params["phi"][i] * x[:, p - 1 - i : -1 - i] for i in range(p))
    rest = dist.gaussian(x[:, p:], params["c"] + past, log_std)
    return dist.standard_normal(first) - float(np.log(np.diag(L)).sum()) + rest


def forecast(
    cfg: Config, variables: PyTree, x: ArrayLike, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean [N, steps] and standard deviation [steps] of the next values, float64.

    The process need not be stable.

    Args:
        cfg: of the model.
        variables: of the fitted model.
        x: series [N, T], T at least p.
        steps: number of values.
    """
    past = np.asarray(x, np.float64)
    if past.ndim != 2 or past.shape[1] < cfg.order or steps < 1:
        raise InputError(
            f"x has shape {past.shape} and steps = {steps}; they must be [N, ≥ {cfg.order}] and at "
            "least 1"
        )
    params, F = variables["params"], companion(variables)
    state, power = past[:, -cfg.order :][:, ::-1], np.eye(cfg.order)
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
    """Return `num` stationary series: float32 [num, T]."""
    refuse_condition(condition)
    require_num(num)
    mean, covariance = stationary(variables)
    L = jnp.asarray(np.linalg.cholesky(covariance), jnp.float32)
    eps, params = rng.normal(key, (num, *cfg.shape)), variables["params"]
    start = mean + eps[:, : cfg.order] @ L.T  # newest first

    def step(past: Array, eps: Array) -> tuple[Array, Array]:
        x = params["c"] + past @ params["phi"] + jnp.sqrt(params["variance"]) * eps
        return jnp.column_stack([x, past[:, :-1]]), x

    rest = jax.lax.scan(step, start, eps[:, cfg.order :].T)[1].T
    return jnp.concatenate([start[:, ::-1], rest], axis=1)
