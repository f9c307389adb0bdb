r"""PPCA: probabilistic principal component analysis.

Tipping & Bishop 1999, *Probabilistic Principal Component Analysis* (J. R. Stat. Soc. B 61(3)).

    z ~ N(0, I_k),   x|z ~ N(Wz + μ, σ²I),   so  x ~ N(μ, C),  C = WWᵀ + σ²I

With the eigenvalues λ_1 ≥ λ_2 ≥ ... and eigenvectors U of the data's covariance S, the likelihood
is largest at

    σ² = Σ_{j>k} λ_j / (D-k),    W = U_k (Λ_k - σ²I)^½

up to a rotation of z, and the posterior is z|x ~ N(M⁻¹Wᵀ(x-μ), σ²M⁻¹), M = WᵀW + σ²I. A VAE with
linear networks has the same optimum. If only some entries of x are known, the posterior is the same
with their rows of W alone, which gives p(missing | known).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gengen import rng
from gengen.contract import BaseConfig, Task, refuse_condition, require_num
from gengen.contract import unconditional as condition_of
from gengen.distributions import LN_2PI
from gengen.types import Array, InputError, Key, PyTree, Shape, check_shape
from gengen.vae.imputation import check_mask

__all__ = [
    "Config", "condition_of", "decode", "encode", "fit", "impute", "log_prob", "reconstruct",
    "sample",
]  # fmt: skip

LOG_PROB = "exact"


@dataclass(frozen=True)
class Config(BaseConfig):
    """Data, latent dimension and estimator."""

    shape: Shape = (2,)  # of one example: (D,), or (H, W, C), taken as a vector of H·W·C
    latent_dim: int = 1  # dimensions of z, fewer than D
    em_steps: int = 0  # of the paper's EM, from a random W; 0: the closed form
    ddof: int = 0  # the covariance is over N - ddof: 0 is maximum likelihood, 1 is unbiased

    RENAMED: ClassVar[dict[str, str | None]] = {"k": "latent_dim", "seed": None}

    @classmethod
    def paper(cls) -> Self:
        """Return the model of the paper's Tobamovirus data: 18 dimensions, of which 2 are latent.

        Missing values, which the paper's EM can handle there, are not supported here.
        """
        return cls(shape=(18,), latent_dim=2)

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data: one latent dimension for 8 of x, at most 50."""
        dims = int(np.prod(task.shape))
        return dataclasses.replace(cls(), shape=task.shape, latent_dim=max(1, min(50, dims // 8)))

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
        if self.em_steps < 0:
            raise InputError(f"Config.em_steps = {self.em_steps}; it must be at least 0")
        if self.ddof not in (0, 1):
            raise InputError(f"Config.ddof = {self.ddof}; it must be 0 or 1")


def fit(cfg: Config, x: ArrayLike, key: Key) -> PyTree:
    """Fit to x [N, *shape] in float64.

    Args:
        cfg: of the model.
        x: the data.
        key: of EM's initial W; unused by the closed form.

    Returns:
        {"params": {"mean": μ [D], "W": [D, latent_dim], "variance": σ² []}}, float32.

    Raises:
        InputError: for another shape, too few examples, or numbers that are not finite.
    """
    data = np.asarray(check_shape({"x": x}, cfg.shape), np.float64)
    data = data.reshape(len(data), -1)
    least = max(cfg.latent_dim, cfg.ddof)
    if len(data) <= least or not np.isfinite(data).all():
        raise InputError(
            f"x has {len(data)} rows; it must have more than latent_dim = {cfg.latent_dim}, all "
            "finite"
        )
    mean = data.mean(0)
    S = (data - mean).T @ (data - mean) / (len(data) - cfg.ddof)
    W, variance = _em(S, cfg, key) if cfg.em_steps else _closed_form(S, cfg.latent_dim)
    params = {"mean": mean, "W": W, "variance": variance}
    return {"params": {name: jnp.asarray(p, jnp.float32) for name, p in params.items()}}


def _closed_form(S: np.ndarray, k: int) -> tuple[np.ndarray, float]:
    values, vectors = np.linalg.eigh(S)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    # Data of fewer dimensions than k leave no noise; this minimum keeps C invertible.
    variance = max(float(values[k:].mean()), 1e-12 * float(values[0]), 1e-30)
    return vectors[:, :k] * np.sqrt(np.maximum(values[:k] - variance, 0)), variance


def _em(S: np.ndarray, cfg: Config, key: Key) -> tuple[np.ndarray, float]:
    """Return W and σ² by the paper's equations (29) and (30), which need only S."""
    dims, variance = len(S), float(np.trace(S) / len(S))
    W = np.asarray(jax.random.normal(key, (dims, cfg.latent_dim)), np.float64) * np.sqrt(variance)
    for _ in range(cfg.em_steps):
        M = W.T @ W + variance * np.eye(cfg.latent_dim)
        SW = S @ W
        new = SW @ np.linalg.inv(variance * np.eye(cfg.latent_dim) + np.linalg.solve(M, W.T @ SW))
        variance = float(np.trace(S - SW @ np.linalg.solve(M, new.T))) / dims
        W = new
    return W, variance


def log_prob(
    cfg: Config,
    variables: PyTree,
    x: ArrayLike,
    key: Key | None = None,
    *,
    condition: PyTree = None,
) -> Array:
    """Return ln N(x; μ, WWᵀ + σ²I) for x [B, *shape]: [B], in nats. `key` is unused."""
    refuse_condition(condition)
    p, d = variables["params"], _centred(cfg, variables, x)
    M, dims = _m(p), d.shape[1]
    # Woodbury: C⁻¹ = (I - W M⁻¹ Wᵀ) / σ², |C| = σ^2(D-k) |M|.
    projected = d @ p["W"]
    inner = jnp.sum(projected * jnp.linalg.solve(M, projected.T).T, axis=1)
    log_det = (dims - cfg.latent_dim) * jnp.log(p["variance"]) + jnp.linalg.slogdet(M)[1]
    square = (jnp.sum(d**2, axis=1) - inner) / p["variance"]
    return -0.5 * (square + log_det + dims * LN_2PI)


def encode(cfg: Config, variables: PyTree, x: ArrayLike, *, condition: PyTree = None) -> Array:
    """Return the posterior's mean, M⁻¹Wᵀ(x-μ) [B, k]; its covariance is σ²M⁻¹ for every x."""
    refuse_condition(condition)
    p = variables["params"]
    return jnp.linalg.solve(_m(p), (_centred(cfg, variables, x) @ p["W"]).T).T


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
    x = x + jnp.sqrt(variables["params"]["variance"]) * rng.normal(noise_key, x.shape)
    return jnp.clip(x, -1, 1) if len(cfg.shape) == 3 else x


def impute(
    cfg: Config, variables: PyTree, x: ArrayLike, mask: ArrayLike, key: Key, *,
    condition: PyTree = None, mean: bool = False,
) -> Array:  # fmt: skip
    """Fill in missing parts of x by the Gaussian p(missing | known): [B, *shape].

    Args:
        cfg: of the model.
        variables: fitted.
        x: [B, *shape]; missing values may be any finite number.
        mask: broadcasts to the shape of x; true where x is known. Known values are kept.
        key: of the samples.
        condition: None, as the model is unconditional.
        mean: whether to fill in E[missing | known] rather than a sample. Samples of images are
            clipped to [-1, 1].
    """
    refuse_condition(condition)
    p, d = variables["params"], _centred(cfg, variables, x)
    x = jnp.asarray(x)
    mask = jnp.broadcast_to(check_mask(mask, x.shape), x.shape)
    known, variance = mask.reshape(d.shape), p["variance"]
    M = jnp.einsum("dk,bd,dl->bkl", p["W"], known, p["W"]) + variance * jnp.eye(cfg.latent_dim)
    L = jnp.linalg.cholesky(M)
    z = jax.scipy.linalg.cho_solve((L, True), ((d * known) @ p["W"])[..., None])[..., 0]
    if mean:
        return jnp.where(mask, x, decode(cfg, variables, z))
    z_key, noise_key = jax.random.split(key)
    eps = rng.normal(z_key, z.shape)[..., None]
    z += jnp.sqrt(variance) * jax.scipy.linalg.solve_triangular(L, eps, trans=1, lower=True)[..., 0]
    out = decode(cfg, variables, z) + jnp.sqrt(variance) * rng.normal(noise_key, x.shape)
    out = jnp.clip(out, -1, 1) if len(cfg.shape) == 3 else out
    return jnp.where(mask, x, out)


def _centred(cfg: Config, variables: PyTree, x: ArrayLike) -> Array:
    x = check_shape({"x": x}, cfg.shape)
    return x.reshape(x.shape[0], -1) - variables["params"]["mean"]


def _m(p: PyTree) -> Array:
    return p["W"].T @ p["W"] + p["variance"] * jnp.eye(p["W"].shape[1])
