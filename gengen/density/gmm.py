r"""Gaussian mixture model, fitted by expectation-maximisation.

Dempster, Laird & Rubin 1977, *Maximum likelihood from incomplete data via the EM algorithm*.

    p(x) = Σ_k π_k N(x; m_k, Σ_k)

    E:  r_nk = π_k N(x_n; m_k, Σ_k) / p(x_n)
    M:  N_k = Σ_n r_nk,   π_k = N_k/N,   m_k = Σ_n r_nk x_n / N_k,
        Σ_k = Σ_n r_nk (x_n - m_k)(x_n - m_k)ᵀ / N_k

ln p increases at every step. EM stops when it increases by less than `tolerance` per example. Σ_k
is full, diagonal, or a multiple of I. `covariance_floor` is added to its diagonal, because the
likelihood of a component that shrinks onto one example has no upper bound.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gengen.contract import BaseConfig, Task, refuse_condition, require_num
from gengen.contract import unconditional as condition_of
from gengen.density.vectors import require_rows, vectors
from gengen.distributions import Mixture
from gengen.types import Array, InputError, Key, PyTree, Shape
from gengen.xla import jit

__all__ = [
    "Config", "condition_of", "em_step", "fit", "log_prob", "mixture", "responsibilities", "sample",
]  # fmt: skip

LOG_PROB = "exact"
COVARIANCES = ("full", "diagonal", "spherical")
MAX_DIMS = 4096  # of one example; every component stores a matrix [D, D]


@dataclass(frozen=True)
class Config(BaseConfig):
    """Data, mixture and stopping rule."""

    shape: Shape = (2,)  # of one example: (D,), or (H, W, C), taken as a vector of H·W·C
    num_components: int = 3  # number of Gaussians
    covariance: str = "full"  # or "diagonal" or "spherical"
    max_steps: int = 500  # of EM
    tolerance: float = 1e-6  # nats per example: EM stops at a smaller increase of ln p
    covariance_floor: float = 1e-6  # added to every variance, in the data's units squared

    RENAMED: ClassVar[dict[str, str | None]] = {
        "K": "num_components", "floor": "covariance_floor", "seed": None,
    }  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """Return the algorithm of the paper: full covariances, EM run until it converges.

        The paper has no `covariance_floor`; the smallest one that is safe in float32 stays. The
        paper prescribes no data and no number of components.
        """
        return cls(covariance="full", max_steps=10_000, tolerance=1e-7, covariance_floor=1e-6)

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data.

        Vectors of up to 8 numbers: the class's defaults. Others, such as images: ten components,
        a larger floor, since pixels may be constant, and at most 50 steps of EM.
        """
        dims = int(np.prod(task.shape))
        if dims > MAX_DIMS:
            raise InputError(
                f"{dims} numbers per example, but a covariance is a matrix [D, D]: D must be at "
                f"most {MAX_DIMS}; use smaller images (--size)"
            )
        cfg = cls(shape=task.shape)
        if dims <= 8:
            return cfg
        return dataclasses.replace(
            cfg, num_components=10, max_steps=50, tolerance=1e-5 * dims, covariance_floor=1e-2
        )

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        if not self.shape or min(self.shape) < 1:
            raise InputError(f"Config.shape = {self.shape}; it must be (D,) or (H, W, C)")
        for name in ("num_components", "max_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be at least 1")
        if self.covariance not in COVARIANCES:
            raise InputError(
                f"Config.covariance = {self.covariance!r}; it must be one of {COVARIANCES}"
            )
        if self.tolerance < 0:
            raise InputError(f"Config.tolerance = {self.tolerance}; it must be at least 0")
        if not self.covariance_floor > 0:
            raise InputError(
                f"Config.covariance_floor = {self.covariance_floor}; it must be positive"
            )


def fit(cfg: Config, x: ArrayLike, key: Key, *, start: Mixture | None = None) -> PyTree:
    """Fit the mixture by EM.

    Args:
        cfg: of the model.
        x: the data, [N, *shape].
        key: of the initial means.
        start: the initial mixture; None: means from the data by k-means++ (Arthur & Vassilvitskii
            2007), the covariance of the data, equal weights.

    Returns:
        {"params": the fields of a `Mixture`}: "log_weights" [K], "means" [K, D] and "factors"
        [K, D, D], the Cholesky factors of the covariances.

    Raises:
        InputError: for another shape, fewer examples than components, numbers that are not
            finite, or a covariance that became singular.
    """
    data = vectors(cfg.shape, x)
    require_rows(data, cfg.num_components, f"num_components = {cfg.num_components}")
    found = _fit(cfg, data, start or _start(cfg, data, key))
    singular = ~np.isfinite(np.asarray(found.factors)).all((1, 2))
    if singular.any():
        raise InputError(
            f"the covariance of component {int(singular.argmax())} became singular in float32: set "
            f"covariance_floor above {cfg.covariance_floor:g}, or scale the data"
        )
    return {"params": found._asdict()}


@jit(0, often=False)
def _fit(cfg: Config, x: Array, start: Mixture) -> Mixture:
    def rises(carry: tuple[Array, Mixture, Array, Array]) -> Array:
        step, _, before, now = carry
        return (step < cfg.max_steps) & (now - before > cfg.tolerance)

    def advance(carry: tuple[Array, Mixture, Array, Array]):
        step, mixture, _, before = carry
        mixture, now = em_step(cfg, mixture, x)
        return step + 1, mixture, before, now

    low = jnp.float32(-jnp.inf)
    # The first step evaluates ln p of the start: it must not count as an increase from -∞.
    return jax.lax.while_loop(rises, advance, (jnp.int32(0), start, low, jnp.float32(-1e30)))[1]


def em_step(cfg: Config, mixture: Mixture, x: Array) -> tuple[Mixture, Array]:
    """Return the mixture after one E and one M step, and the mean ln p(x) before it."""
    parts = mixture.log_parts(x)
    log_p = jax.nn.logsumexp(parts, axis=1)
    r = jnp.exp(parts - log_p[:, None])  # [N, K]
    # An empty component stays where it is, with almost no weight, instead of becoming 0/0.
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
    """Return the covariance restricted to the Config's kind, with the floor added."""
    eye = jnp.eye(len(covariance))
    if cfg.covariance == "diagonal":
        covariance = covariance * eye
    if cfg.covariance == "spherical":
        covariance = jnp.trace(covariance) / len(covariance) * eye
    return covariance + cfg.covariance_floor * eye


def _start(cfg: Config, x: Array, key: Key) -> Mixture:
    """Return the initial mixture, with means by k-means++."""
    generator, data = np.random.default_rng(_seed(key)), np.asarray(x, np.float64)
    means = [data[generator.integers(len(data))]]
    while len(means) < cfg.num_components:
        far = np.min([((data - m) ** 2).sum(1) for m in means], axis=0)
        share = far / far.sum() if far.sum() > 0 else np.full(len(data), 1 / len(data))
        means.append(data[generator.choice(len(data), p=share)])
    covariance = jnp.asarray(np.cov(data.T, ddof=0).reshape(data.shape[1], -1), jnp.float32)
    factor = jnp.linalg.cholesky(_restricted(cfg, covariance))
    return Mixture(
        jnp.full(cfg.num_components, -np.log(cfg.num_components), jnp.float32),
        jnp.asarray(np.stack(means), jnp.float32),
        jnp.broadcast_to(factor, (cfg.num_components, *factor.shape)),
    )


def _seed(key: Key) -> int:
    """Return a seed for NumPy: `s` for `jax.random.key(s)`."""
    return sum(int(word) << (32 * i) for i, word in enumerate(jax.random.key_data(key)[::-1]))


def mixture(variables: PyTree) -> Mixture:
    """Return the fitted mixture as a distribution."""
    return Mixture(**variables["params"])


def log_prob(
    cfg: Config,
    variables: PyTree,
    x: ArrayLike,
    key: Key | None = None,
    *,
    condition: PyTree = None,
) -> Array:
    """Return ln p(x) for x [B, *shape]: [B], in nats. `key` is unused."""
    refuse_condition(condition)
    return mixture(variables).log_prob(vectors(cfg.shape, x))


def responsibilities(cfg: Config, variables: PyTree, x: ArrayLike) -> Array:
    """Return P(k|x) for x [B, *shape]: [B, K]."""
    return jax.nn.softmax(mixture(variables).log_parts(vectors(cfg.shape, x)), axis=1)


def sample(
    cfg: Config, variables: PyTree, key: Key, num: int, *, condition: PyTree = None
) -> Array:
    """Return `num` samples: float32 [num, *shape], images clipped to [-1, 1]."""
    refuse_condition(condition)
    require_num(num)
    x = mixture(variables).sample(key, num).reshape(num, *cfg.shape)
    return jnp.clip(x, -1, 1) if len(cfg.shape) == 3 else x
