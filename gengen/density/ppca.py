r"""Probabilistic PCA.

Tipping & Bishop 1999, *Probabilistic Principal Component Analysis* (J. R. Stat. Soc. B 61(3)).

    z ~ N(0, I_k),   x|z ~ N(Wz + μ, σ²I),   so  x ~ N(μ, C),  C = WWᵀ + σ²I

The likelihood is largest, with λ_1 ≥ λ_2 ≥ ... and U the eigenvalues and -vectors of the data's
covariance S, at

    σ² = Σ_{j>k} λ_j / (D-k),    W = U_k (Λ_k - σ²I)^½

up to a rotation of z, and the posterior is z|x ~ N(M⁻¹Wᵀ(x-μ), σ²M⁻¹), M = WᵀW + σ²I. So this is
the exact answer that a VAE with linear networks must find.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gengen import rng
from gengen.distributions import LN_2PI
from gengen.types import Array, InputError, Key, PyTree, Shape, check_shape


@dataclass(frozen=True)
class Config:
    """What is fitted, and how."""

    shape: Shape = (2,)  # of one example: (D,), or (H, W, C), taken as a vector of H·W·C
    k: int = 1  # dimensions of z, fewer than D
    em_steps: int = 0  # of the paper's EM, from a random W; 0: the closed form
    ddof: int = 0  # the covariance is over N - ddof: 0 is maximum likelihood, 1 is unbiased
    seed: int = 0  # of EM's start

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        if not self.shape or min(self.shape) < 1:
            raise InputError(f"Config.shape = {self.shape}, but it is (D,) or (H, W, C)")
        if not 1 <= self.k < np.prod(self.shape):
            raise InputError(
                f"Config.k = {self.k}, but z has 1..{np.prod(self.shape) - 1} dimensions, "
                "fewer than x"
            )
        if self.em_steps < 0 or self.ddof not in (0, 1):
            raise InputError(
                f"Config.em_steps = {self.em_steps}, Config.ddof = {self.ddof}: at least 0; 0 or 1"
            )


def fit(x: ArrayLike, cfg: Config = Config()) -> PyTree:  # noqa: B008
    """Fit to x [N, *shape] in float64: {"mean": μ [D], "W": [D, k], "variance": σ² []}, float32.

    Raises:
        InputError: for another shape, too few examples, or numbers that are not finite.
    """
    data = np.asarray(check_shape({"x": x}, cfg.shape), np.float64)
    data = data.reshape(len(data), -1)
    if len(data) <= max(cfg.k, cfg.ddof) or not np.isfinite(data).all():
        raise InputError(f"x has {len(data)} rows: it needs more than k = {cfg.k}, all finite")
    mean = data.mean(0)
    S = (data - mean).T @ (data - mean) / (len(data) - cfg.ddof)
    W, variance = _em(S, cfg) if cfg.em_steps else _closed_form(S, cfg.k)
    return {
        "mean": jnp.asarray(mean, jnp.float32),
        "W": jnp.asarray(W, jnp.float32),
        "variance": jnp.asarray(variance, jnp.float32),
    }


def _closed_form(S: np.ndarray, k: int) -> tuple[np.ndarray, float]:
    values, vectors = np.linalg.eigh(S)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    # Data in fewer dimensions than k leave no noise: a little of it keeps C invertible.
    variance = max(float(values[k:].mean()), 1e-12 * float(values[0]), 1e-30)
    return vectors[:, :k] * np.sqrt(np.maximum(values[:k] - variance, 0)), variance


def _em(S: np.ndarray, cfg: Config) -> tuple[np.ndarray, float]:
    """The paper's equations (29) and (30): both half steps in one, of S alone."""
    dims, variance = len(S), float(np.trace(S) / len(S))
    W = np.random.default_rng(cfg.seed).normal(size=(dims, cfg.k)) * np.sqrt(variance)
    for _ in range(cfg.em_steps):
        M = W.T @ W + variance * np.eye(cfg.k)
        SW = S @ W
        new = SW @ np.linalg.inv(variance * np.eye(cfg.k) + np.linalg.solve(M, W.T @ SW))
        variance = float(np.trace(S - SW @ np.linalg.solve(M, new.T))) / dims
        W = new
    return W, variance


def log_prob(cfg: Config, variables: PyTree, x: ArrayLike) -> Array:
    """Ln N(x; μ, WWᵀ + σ²I), exact, for x [B, *shape]: [B], in nats."""
    p, d = variables["params"], _centred(cfg, variables, x)
    M, dims = _m(p), d.shape[1]
    # Woodbury: C⁻¹ = (I - W M⁻¹ Wᵀ) / σ², |C| = σ^2(D-k) |M|.
    projected = d @ p["W"]
    inner = jnp.sum(projected * jnp.linalg.solve(M, projected.T).T, axis=1)
    log_det = (dims - cfg.k) * jnp.log(p["variance"]) + jnp.linalg.slogdet(M)[1]
    square = (jnp.sum(d**2, axis=1) - inner) / p["variance"]
    return -0.5 * (square + log_det + dims * LN_2PI)


def encode(cfg: Config, variables: PyTree, x: ArrayLike) -> Array:
    """The posterior's mean, M⁻¹Wᵀ(x-μ) [B, k]; its covariance is σ²M⁻¹ for every x."""
    p = variables["params"]
    return jnp.linalg.solve(_m(p), (_centred(cfg, variables, x) @ p["W"]).T).T


def decode(cfg: Config, variables: PyTree, z: Array) -> Array:
    """E[x|z] = Wz + μ: [B, *shape]."""
    p = variables["params"]
    return jnp.asarray(z @ p["W"].T + p["mean"]).reshape(-1, *cfg.shape)


def sample(cfg: Config, variables: PyTree, key: Key, num: int) -> Array:
    """Draw `num` samples: float32 [num, *shape], images clipped to [-1, 1]."""
    if num < 1:
        raise InputError(f"num = {num}, but at least 1 sample is drawn")
    z_key, noise_key = jax.random.split(key)
    x = decode(cfg, variables, rng.normal(z_key, (num, cfg.k)))
    x = x + jnp.sqrt(variables["params"]["variance"]) * rng.normal(noise_key, x.shape)
    return jnp.clip(x, -1, 1) if len(cfg.shape) == 3 else x


def _centred(cfg: Config, variables: PyTree, x: ArrayLike) -> Array:
    x = check_shape({"x": x}, cfg.shape)
    return x.reshape(x.shape[0], -1) - variables["params"]["mean"]


def _m(p: PyTree) -> Array:
    return p["W"].T @ p["W"] + p["variance"] * jnp.eye(p["W"].shape[1])
