r"""Mixtures of Gaussians, whose denoisers and posteriors are known in closed form.

    p(x) = Σ_k w_k N(m_k, s² I)      q(z) = Σ_k w_k N(a m_k, (a² s² + b²) I) of z = a x + b ε

where ε ~ N(0, I). In `ddpm`, a = √ᾱ_t and b = √(1-ᾱ_t); in `edm`, a = 1 and b = σ.

Samplers and methods for inverse problems take `denoiser` instead of a trained network; their errors
are then their own.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gengen.diffusion.samplers import EpsFn
from gengen.diffusion.schedule import Schedule
from gengen.types import Array


class Mixture(NamedTuple):
    """A mixture Σ_k w_k N(m_k, C) of one covariance C; float64.

    Attributes:
        weights: w [K].
        means: m [K, D].
        covariance: C [D, D].
    """

    weights: np.ndarray
    means: np.ndarray
    covariance: np.ndarray

    def sample(self, rng: np.random.Generator, num: int) -> np.ndarray:
        """Return samples [num, D]."""
        rows = rng.choice(len(self.weights), num, p=self.weights)
        noise = rng.standard_normal((num, self.means.shape[1]))
        return self.means[rows] + noise @ np.linalg.cholesky(self.covariance).T

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean [D] and covariance [D, D]."""
        mean = self.weights @ self.means
        away = self.means - mean
        return mean, self.covariance + np.einsum("k,ki,kj->ij", self.weights, away, away)


def mixture(weights: np.ndarray, means: np.ndarray, std: float) -> Mixture:
    """Return a mixture of isotropic components, all of standard deviation `std`."""
    means = np.asarray(means, np.float64)
    return Mixture(np.asarray(weights, np.float64), means, std**2 * np.eye(means.shape[1]))


def denoiser(p: Mixture, schedule: Schedule) -> EpsFn:
    """Return E[ε | z_t], z [B, D], for isotropic components."""
    alpha, rest = (jnp.asarray(a, jnp.float32) for a in schedule[1:])

    def eps_fn(z: Array, t: Array) -> Array:
        a, b = jnp.sqrt(alpha[t - 1]), jnp.sqrt(rest[t - 1])
        return -b[:, None] * score(p, z, a, b)

    return eps_fn


def score(p: Mixture, z: Array, a: Array, b: Array) -> Array:
    """Return ∇ ln q(z) [B, D] for z [B, D], a and b [B], and isotropic components."""
    r, away, variance = _components(p, z, a, b)
    return -jnp.einsum("bk,bkd->bd", r, away) / variance


def mean_of_data(p: Mixture, z: Array, a: Array, b: Array) -> Array:
    """Return E[x | z] [B, D] for z [B, D], a and b [B], and isotropic components."""
    r, away, variance = _components(p, z, a, b)
    each = jnp.asarray(p.means) + (a[:, None] * p.covariance[0, 0] / variance)[..., None] * away
    return jnp.einsum("bk,bkd->bd", r, each)


def _components(p: Mixture, z: Array, a: Array, b: Array) -> tuple[Array, Array, Array]:
    """Return p(k|z) [B, K], z - a m_k [B, K, D] and the variance of z given k [B, 1]."""
    log_w, means = jnp.log(jnp.asarray(p.weights)), jnp.asarray(p.means)
    variance = (a**2 * p.covariance[0, 0] + b**2)[:, None]
    away = z[:, None] - a[:, None, None] * means
    return jax.nn.softmax(log_w - 0.5 * jnp.sum(away**2, -1) / variance, axis=1), away, variance


def posterior(p: Mixture, A: np.ndarray, y: np.ndarray, noise: float) -> Mixture:
    """Return p(x|y) for y = Ax + σ n, A [d, D], y [d]: another mixture."""
    S = A @ p.covariance @ A.T + noise**2 * np.eye(len(A))
    gain = p.covariance @ A.T @ np.linalg.inv(S)
    away = y - p.means @ A.T
    log_w = np.log(p.weights) - 0.5 * np.einsum("ki,ij,kj->k", away, np.linalg.inv(S), away)
    w = np.exp(log_w - log_w.max())
    return Mixture(w / w.sum(), p.means + away @ gain.T, p.covariance - gain @ A @ p.covariance)
