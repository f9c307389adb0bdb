r"""Factor analysis, fitted by expectation-maximisation.

Rubin & Thayer 1982, *EM algorithms for ML factor analysis* (Psychometrika 47(1)).

    z ~ N(0, I_k),   x|z ~ N(Wz + μ, Ψ),   so  x ~ N(μ, WWᵀ + Ψ),   Ψ diagonal

With the covariance S of the data and B = Wᵀ(WWᵀ + Ψ)⁻¹, so that E[z|x] = B(x - μ),

    E:  A = I - BW + BSBᵀ           (the mean of E[zzᵀ|x])
    M:  W = SBᵀA⁻¹,   Ψ = diag(S - WBS)

PPCA is the case of Ψ = σ²I. Each dimension has a noise of its own here, so a change of the units of
one dimension changes nothing but the scale of its row of W. W is unique up to a rotation of z.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gengen import rng
from gengen.contract import BaseConfig, Task, refuse_condition, require_num
from gengen.contract import unconditional as condition_of
from gengen.density.vectors import require_rows, vectors
from gengen.distributions import LN_2PI
from gengen.types import Array, InputError, Key, PyTree, Shape

__all__ = [
    "Config", "Factors", "condition_of", "decode", "em_step", "encode", "fit", "log_likelihood",
    "log_prob", "reconstruct", "sample",
]  # fmt: skip

LOG_PROB = "exact"


@dataclass(frozen=True)
class Config(BaseConfig):
    """Data, latent dimension and stopping rule."""

    shape: Shape = (5,)  # of one example: (D,), or (H, W, C), taken as a vector of H·W·C
    latent_dim: int = 1  # number of factors, fewer than D
    max_steps: int = 2000  # of EM
    tolerance: float = 1e-7  # nats per example: EM stops at a smaller increase of ln p
    covariance_floor: float = 1e-6  # least variance of Ψ, in the data's units squared

    @classmethod
    def paper(cls) -> Self:
        """Return the model of the paper's example: 9 measurements, 4 factors.

        The paper's Ψ has no least value; the smallest one that is safe in float32 stays.
        """
        return cls(shape=(9,), latent_dim=4, max_steps=100_000, tolerance=1e-9)

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data: one factor for 8 dimensions of x, at most 50.

        Images have a larger least variance, since pixels may be constant, and fewer steps.
        """
        dims = int(np.prod(task.shape))
        cfg = dataclasses.replace(cls(), shape=task.shape, latent_dim=max(1, min(50, dims // 8)))
        if dims <= 8:
            return cfg
        return dataclasses.replace(cfg, max_steps=200, tolerance=1e-5, covariance_floor=1e-4)

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        if not self.shape or min(self.shape) < 1:
            raise InputError(f"Config.shape = {self.shape}; it must be (D,) or (H, W, C)")
        if not 1 <= self.latent_dim < np.prod(self.shape):
            raise InputError(
                f"Config.latent_dim = {self.latent_dim}; it must be in "
                f"1..{np.prod(self.shape) - 1}, fewer than the dimensions of x"
            )
        if self.max_steps < 1:
            raise InputError(f"Config.max_steps = {self.max_steps}; it must be at least 1")
        for name in ("tolerance", "covariance_floor"):
            if not getattr(self, name) >= 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be at least 0")


class Factors(NamedTuple):
    """Parameters of the covariance, float64.

    Attributes:
        W: loadings [D, k].
        variances: the diagonal of Ψ [D].
    """

    W: np.ndarray
    variances: np.ndarray


def fit(cfg: Config, x: ArrayLike, key: Key, *, start: Factors | None = None) -> PyTree:
    """Fit the model by EM, in float64.

    Args:
        cfg: of the model.
        x: the data, [N, *shape].
        key: of the initial W.
        start: the initial parameters; None: W from N(0, 1), scaled as the data, and the data's
            variances for Ψ.

    Returns:
        {"params": {"mean": μ [D], "W": [D, latent_dim], "variances": diag Ψ [D]}}, float32.

    Raises:
        InputError: for another shape, too few examples, numbers that are not finite, or a constant
            dimension where `covariance_floor` is 0, whose covariance is singular.
    """
    data = np.asarray(vectors(cfg.shape, x), np.float64)
    require_rows(data, cfg.latent_dim + 1, f"latent_dim = {cfg.latent_dim}")
    mean = data.mean(0)
    S = (data - mean).T @ (data - mean) / len(data)
    spread = np.diag(S)
    if cfg.covariance_floor == 0 and (spread == 0).any():
        raise InputError(
            f"dimension {int((spread == 0).argmax())} of x is constant, so its covariance is "
            "singular: leave the dimension out, or set covariance_floor above 0"
        )
    if start is None:
        noise = np.asarray(jax.random.normal(key, (len(S), cfg.latent_dim)), np.float64)
        scale = np.sqrt(spread / cfg.latent_dim)[:, None]
        start = Factors(scale * noise, np.maximum(spread, cfg.covariance_floor))
    found = _em(cfg, S, start)
    params = {"mean": mean, **found._asdict()}
    return {"params": {name: jnp.asarray(p, jnp.float32) for name, p in params.items()}}


def _em(cfg: Config, S: np.ndarray, factors: Factors) -> Factors:
    before = -np.inf
    for _ in range(cfg.max_steps):
        now = log_likelihood(S, factors)
        if now - before < cfg.tolerance:
            break
        before, factors = now, em_step(S, factors, cfg.covariance_floor)
    return factors


def em_step(S: np.ndarray, factors: Factors, floor: float = 0.0) -> Factors:
    """Return the parameters after one E and one M step.

    Args:
        S: covariance of the data [D, D].
        factors: the parameters before.
        floor: least variance of Ψ.
    """
    W, eye = factors.W, np.eye(factors.W.shape[1])
    # B = Wᵀ(WWᵀ + Ψ)⁻¹ = (I + WᵀΨ⁻¹W)⁻¹WᵀΨ⁻¹: a matrix [k, k] is inverted, not [D, D]
    scaled = W / factors.variances[:, None]
    B = np.linalg.solve(eye + W.T @ scaled, scaled.T)
    SB = S @ B.T
    new = np.linalg.solve(eye - B @ W + B @ SB, SB.T).T
    return Factors(new, np.maximum(np.diag(S) - np.sum(new * SB, axis=1), floor))


def log_likelihood(S: np.ndarray, factors: Factors) -> float:
    """Return the mean ln p(x) of data with the covariance S [D, D], in nats per example."""
    W, variances = factors
    scaled = W / variances[:, None]
    M = np.eye(W.shape[1]) + W.T @ scaled
    trace = np.sum(np.diag(S) / variances) - np.trace(np.linalg.solve(M, scaled.T @ S @ scaled))
    log_det = np.sum(np.log(variances)) + np.linalg.slogdet(M)[1]
    return float(-0.5 * (len(S) * LN_2PI + log_det + trace))


def log_prob(
    cfg: Config,
    variables: PyTree,
    x: ArrayLike,
    key: Key | None = None,
    *,
    condition: PyTree = None,
) -> Array:
    """Return ln N(x; μ, WWᵀ + Ψ) for x [B, *shape]: [B], in nats. `key` is unused."""
    refuse_condition(condition)
    d, W, log_std = _whitened(cfg, variables, x)
    M = jnp.eye(W.shape[1]) + W.T @ W
    z = encode(cfg, variables, x)
    # dᵀ(WWᵀ + I)⁻¹d = |d - Wz|² + |z|² at z = E[z|x]: no difference of large numbers
    square = jnp.sum((d - z @ W.T) ** 2, axis=1) + jnp.sum(z**2, axis=1)
    log_det = 2 * log_std.sum() + jnp.linalg.slogdet(M)[1]
    return -0.5 * (square + log_det + d.shape[1] * LN_2PI)


def encode(cfg: Config, variables: PyTree, x: ArrayLike, *, condition: PyTree = None) -> Array:
    """Return the posterior's mean [B, k]; its covariance is (I + WᵀΨ⁻¹W)⁻¹ for every x."""
    refuse_condition(condition)
    d, W, _ = _whitened(cfg, variables, x)
    return jnp.linalg.solve(jnp.eye(W.shape[1]) + W.T @ W, (d @ W).T).T


def _whitened(cfg: Config, variables: PyTree, x: ArrayLike) -> tuple[Array, Array, Array]:
    """Return Ψ^-½(x - μ) [B, D], Ψ^-½W [D, k] and ln diag Ψ^½ [D]."""
    p = variables["params"]
    log_std = 0.5 * jnp.log(p["variances"])
    d = (vectors(cfg.shape, x) - p["mean"]) * jnp.exp(-log_std)
    return d, p["W"] * jnp.exp(-log_std)[:, None], log_std


def decode(cfg: Config, variables: PyTree, z: ArrayLike, *, condition: PyTree = None) -> Array:
    """Return E[x|z] = Wz + μ for z [B, k]: [B, *shape]."""
    refuse_condition(condition)
    p = variables["params"]
    return jnp.asarray(z @ p["W"].T + p["mean"]).reshape(-1, *cfg.shape)


def reconstruct(cfg: Config, variables: PyTree, x: ArrayLike, *, condition: PyTree = None) -> Array:
    """Return E[x|z] at the posterior's mean of z: [B, *shape]."""
    return decode(cfg, variables, encode(cfg, variables, x, condition=condition))


def sample(
    cfg: Config, variables: PyTree, key: Key, num: int, *, condition: PyTree = None
) -> Array:
    """Return `num` samples: float32 [num, *shape], images clipped to [-1, 1]."""
    refuse_condition(condition)
    require_num(num)
    z_key, noise_key = jax.random.split(key)
    x = decode(cfg, variables, rng.normal(z_key, (num, cfg.latent_dim)))
    std = jnp.sqrt(variables["params"]["variances"]).reshape(cfg.shape)
    x = x + std * rng.normal(noise_key, x.shape)
    return jnp.clip(x, -1, 1) if len(cfg.shape) == 3 else x
