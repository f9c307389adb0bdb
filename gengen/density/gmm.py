r"""Gaussian mixture by expectation-maximisation.

Dempster, Laird & Rubin 1977, *Maximum likelihood from incomplete data via the EM algorithm*.

    p(x) = Σ_k π_k N(x; m_k, Σ_k)

    E:  r_nk = π_k N(x_n; m_k, Σ_k) / p(x_n)
    M:  N_k = Σ_n r_nk,   π_k = N_k/N,   m_k = Σ_n r_nk x_n / N_k,
        Σ_k = Σ_n r_nk (x_n - m_k)(x_n - m_k)ᵀ / N_k

ln p rises at every step; it stops where it rises by less than `tolerance` per example. Σ_k is full,
or its diagonal, or its mean variance times I; a little is added to its diagonal, since the
likelihood of a part that shrinks onto one example has no upper bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gengen.distributions import Mixture
from gengen.types import Array, InputError, Key, PyTree, Shape, check_shape

COVARIANCES = ("full", "diagonal", "spherical")


@dataclass(frozen=True)
class Config:
    """What is fitted, and how."""

    shape: Shape = (2,)  # of one example: (D,), or (H, W, C), taken as a vector of H·W·C
    K: int = 3  # parts
    covariance: str = "full"  # or "diagonal" or "spherical"
    max_steps: int = 500  # of EM
    tolerance: float = 1e-6  # nats per example: a smaller rise ends EM
    floor: float = 1e-6  # added to every variance, in the data's units squared
    seed: int = 0  # of the first means, by k-means++

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        if not self.shape or min(self.shape) < 1:
            raise InputError(f"Config.shape = {self.shape}, but it is (D,) or (H, W, C)")
        if self.K < 1 or self.max_steps < 1:
            raise InputError(
                f"Config.K = {self.K}, Config.max_steps = {self.max_steps}: at least 1"
            )
        if self.covariance not in COVARIANCES:
            raise InputError(f"Config.covariance = {self.covariance!r}, not one of {COVARIANCES}")
        if self.tolerance < 0 or not self.floor > 0:
            raise InputError(
                f"Config.tolerance = {self.tolerance}, Config.floor = {self.floor}: at least 0; "
                "above 0"
            )


def fit(x: ArrayLike, cfg: Config = Config(), start: Mixture | None = None) -> PyTree:  # noqa: B008
    """Fit to x [N, *shape].

    Args:
        x: the data.
        cfg: what to fit.
        start: the first mixture; None: means among the data by k-means++ (Arthur & Vassilvitskii
            2007), the data's own covariance, equal weights.

    Returns:
        The fields of a `Mixture`: {"log_weights": [K], "means": [K, D], "factors": [K, D, D]}.

    Raises:
        InputError: for another shape, fewer examples than parts, or numbers that are not finite.
    """
    data = _vectors(cfg, x)
    if len(data) < cfg.K or not bool(jnp.isfinite(data).all()):
        raise InputError(f"x has {len(data)} rows: it needs at least K = {cfg.K}, all finite")
    return _fit(cfg, data, start or _start(cfg, data))._asdict()


@jax.jit(static_argnums=0)
def _fit(cfg: Config, x: Array, start: Mixture) -> Mixture:
    def rises(carry: tuple[Array, Mixture, Array, Array]) -> Array:
        step, _, before, now = carry
        return (step < cfg.max_steps) & (now - before > cfg.tolerance)

    def advance(carry: tuple[Array, Mixture, Array, Array]):
        step, mixture, _, before = carry
        mixture, now = em_step(cfg, mixture, x)
        return step + 1, mixture, before, now

    low = jnp.float32(-jnp.inf)
    # The first step only says what ln p is at the start: it must not count as a rise from -∞.
    return jax.lax.while_loop(rises, advance, (jnp.int32(0), start, low, jnp.float32(-1e30)))[1]


def em_step(cfg: Config, mixture: Mixture, x: Array) -> tuple[Mixture, Array]:
    """One E and one M step: the next mixture, and the mean ln p(x) under the one before."""
    parts = mixture.log_parts(x)
    log_p = jax.nn.logsumexp(parts, axis=1)
    r = jnp.exp(parts - log_p[:, None])  # [N, K]
    # An empty part stays where it is, with next to no weight, rather than become 0/0.
    counts = r.sum(0) + 10 * jnp.finfo(x.dtype).eps
    means = (r.T @ x) / counts[:, None]

    def factor(now: tuple[Array, Array, Array]) -> Array:
        weights, mean, count = now
        d = x - mean
        covariance = (weights[:, None] * d).T @ d / count
        return jnp.linalg.cholesky(_restricted(cfg, covariance))

    factors = jax.lax.map(factor, (r.T, means, counts))  # one at a time: N·D of memory, not N·D·K
    log_weights = jnp.log(counts / counts.sum())
    return Mixture(log_weights, means, factors), jnp.mean(log_p)


def _restricted(cfg: Config, covariance: Array) -> Array:
    """The covariance as the Config wants it, with the floor added."""
    eye = jnp.eye(len(covariance))
    if cfg.covariance == "diagonal":
        covariance = covariance * eye
    if cfg.covariance == "spherical":
        covariance = jnp.trace(covariance) / len(covariance) * eye
    return covariance + cfg.floor * eye


def _start(cfg: Config, x: Array) -> Mixture:
    generator, data = np.random.default_rng(cfg.seed), np.asarray(x, np.float64)
    means = [data[generator.integers(len(data))]]
    while len(means) < cfg.K:
        far = np.min([((data - m) ** 2).sum(1) for m in means], axis=0)
        share = far / far.sum() if far.sum() > 0 else np.full(len(data), 1 / len(data))
        means.append(data[generator.choice(len(data), p=share)])
    covariance = jnp.asarray(np.cov(data.T, ddof=0).reshape(data.shape[1], -1), jnp.float32)
    factor = jnp.linalg.cholesky(_restricted(cfg, covariance))
    return Mixture(
        jnp.full(cfg.K, -np.log(cfg.K), jnp.float32),
        jnp.asarray(np.stack(means), jnp.float32),
        jnp.broadcast_to(factor, (cfg.K, *factor.shape)),
    )


def mixture(variables: PyTree) -> Mixture:
    """What was fitted, as a distribution."""
    return Mixture(**variables["params"])


def log_prob(cfg: Config, variables: PyTree, x: ArrayLike) -> Array:
    """Ln p(x), exact, for x [B, *shape]: [B], in nats."""
    return mixture(variables).log_prob(_vectors(cfg, x))


def responsibilities(cfg: Config, variables: PyTree, x: ArrayLike) -> Array:
    """P(k|x) for x [B, *shape]: [B, K]."""
    return jax.nn.softmax(mixture(variables).log_parts(_vectors(cfg, x)), axis=1)


def sample(cfg: Config, variables: PyTree, key: Key, num: int) -> Array:
    """Draw `num` samples: float32 [num, *shape], images clipped to [-1, 1]."""
    if num < 1:
        raise InputError(f"num = {num}, but at least 1 sample is drawn")
    x = mixture(variables).draw(key, num).reshape(num, *cfg.shape)
    return jnp.clip(x, -1, 1) if len(cfg.shape) == 3 else x


def _vectors(cfg: Config, x: ArrayLike) -> Array:
    x = check_shape({"x": x}, cfg.shape)
    return x.reshape(x.shape[0], -1)
