r"""Distributions that models are made of; densities in nats, summed over all but the batch axis.

Likelihoods p(x|η) of a decoder's outputs η, with independent dimensions given η, for data in the
units of a batch (images in [-1, 1]). μ is a location, s a scale:

    gaussian               -½ ((x-μ)/s)² - ln s - ½ ln 2π
    laplace                -|x-μ|/s - ln 2s
    bernoulli              ln σ(xη), x = ±1: the binary image b = (x+1)/2 has P(b=1) = σ(η)
    discretised logistic   ln [σ((x+h-μ)/s) - σ((x-h-μ)/s)], h = 1/255: the probability of an 8-bit
                           pixel; the first and the last bin reach to infinity (1606.04934)

and normal distributions of latents: `Normal`, and mixtures of them, `Mixture`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gengen import rng
from gengen.types import Array, InputError, Key

LN_2PI = float(np.log(2 * np.pi))
LEVELS = 256  # intensity levels of a pixel: x = -1, -1 + 2/255, ..., 1


def total(x: Array) -> Array:
    """Sum over all axes but the first: [B, ...] → [B]."""
    return jnp.sum(x.reshape(x.shape[0], -1), axis=1)


# --- binary images -------------------------------------------------------------------------------

BINARISATIONS = ("dynamic", "threshold")


def binarise(x: Array, key: Key | None, protocol: str = "dynamic") -> Array:
    """Return binary images, pixels ±1, of grey images x [B, ...] in [-1, 1].

    Args:
        x: grey images; (x+1)/2 is the probability that a pixel is 1.
        key: of the pixels' noise, by the position in the global batch; None: threshold.
        protocol: "dynamic" samples each pixel from its grey value; "threshold" is 1 where x > 0.

    Raises:
        InputError: for another protocol.
    """
    if protocol not in BINARISATIONS:
        raise InputError(f"binarise = {protocol!r}; it must be one of {', '.join(BINARISATIONS)}")
    if protocol == "threshold" or key is None:
        return jnp.where(x > 0, 1.0, -1.0)
    return jnp.where(rng.uniform(key, x.shape) < (x + 1) / 2, 1.0, -1.0)


# --- likelihoods ---------------------------------------------------------------------------------


def gaussian(x: Array, mean: Array, log_scale: Array) -> Array:
    """Return ln N(x; μ, s²) for x, μ, ln s [B, ...]: [B], in nats."""
    return total(-0.5 * ((x - mean) * jnp.exp(-log_scale)) ** 2 - log_scale - 0.5 * LN_2PI)


def laplace(x: Array, mean: Array, log_scale: Array) -> Array:
    """Return ln Laplace(x; μ, s) for x, μ, ln s [B, ...]: [B], in nats."""
    return total(-jnp.abs(x - mean) * jnp.exp(-log_scale) - log_scale - float(np.log(2)))


def bernoulli(x: Array, logits: Array) -> Array:
    """Return ln p(b), b = (x+1)/2 in {0, 1}, for x = ±1 and logits [B, ...]: [B], in nats."""
    return total(jax.nn.log_sigmoid(x * logits))


def discretised_logistic(x: Array, mean: Array, log_scale: Array) -> Array:
    """Return the log-probability of 8-bit pixels x = v/127.5 - 1 [B, ...]: [B], in nats."""
    return total(log_bin(x, mean, log_scale))


def log_bin(x: Array, mean: Array, log_scale: Array) -> Array:
    """Return the log-probability of each 8-bit pixel x, in nats; x, μ and ln s broadcast."""
    half = 1 / (LEVELS - 1)
    inverse = jnp.exp(-log_scale)
    upper, lower = (x + half - mean) * inverse, (x - half - mean) * inverse
    # σ(a) - σ(b) = σ(a) σ(-b) (1 - e^(b-a)): no digit is lost, however far out x lies.
    below, above = jax.nn.log_sigmoid(upper), jax.nn.log_sigmoid(-lower)
    inner = below + above + jnp.log(-jnp.expm1(-2 * half * inverse))
    return jnp.where(x < half - 1, below, jnp.where(x > 1 - half, above, inner))


class Likelihood(NamedTuple):
    """p(x|η), where η [B, ..., parts · C] are a decoder's outputs for x [B, ..., C].

    Attributes:
        parts: outputs per dimension: 2 with a scale, as ln s; else 1.
        log_prob: (x, η) → ln p(x|η) [B], in nats.
        mean: η → E x, the shape of x.
        sample: (key, η) → x, by noise of the position in the global batch.
    """

    parts: int
    log_prob: Callable[[Array, Array], Array]
    mean: Callable[[Array], Array]
    sample: Callable[[Key, Array], Array]


def likelihood(name: str) -> Likelihood:
    """Return the likelihood "gaussian", "laplace", "bernoulli" or "logistic" (discretised).

    Raises:
        InputError: for another name.
    """
    if name not in LIKELIHOODS:
        raise InputError(f"likelihood = {name!r}; it must be one of {', '.join(LIKELIHOODS)}")
    return LIKELIHOODS[name]


def _halves(eta: Array) -> tuple[Array, Array]:
    mean, log_scale = jnp.split(eta, 2, axis=-1)
    return mean, log_scale


def _location(eta: Array) -> Array:
    return _halves(eta)[0]


def _gaussian_sample(key: Key, eta: Array) -> Array:
    mean, log_scale = _halves(eta)
    return mean + jnp.exp(log_scale) * rng.normal(key, mean.shape)


def _laplace_sample(key: Key, eta: Array) -> Array:
    mean, log_scale = _halves(eta)
    u = rng.uniform(key, mean.shape, -0.5, 0.5)
    far = -jnp.log(jnp.maximum(1 - 2 * jnp.abs(u), 1e-7))
    return mean + jnp.exp(log_scale) * jnp.sign(u) * far


def _bernoulli_sample(key: Key, eta: Array) -> Array:
    return jnp.where(rng.uniform(key, eta.shape) < jax.nn.sigmoid(eta), 1.0, -1.0)


def _logistic_sample(key: Key, eta: Array) -> Array:
    mean, log_scale = _halves(eta)
    u = rng.uniform(key, mean.shape, 1e-6, 1 - 1e-6)
    x = mean + jnp.exp(log_scale) * (jnp.log(u) - jnp.log1p(-u))
    half = (LEVELS - 1) / 2
    return jnp.clip(jnp.round((x + 1) * half) / half - 1, -1, 1)


LIKELIHOODS = {
    "gaussian": Likelihood(
        2, lambda x, eta: gaussian(x, *_halves(eta)), _location, _gaussian_sample
    ),
    "laplace": Likelihood(2, lambda x, eta: laplace(x, *_halves(eta)), _location, _laplace_sample),
    "bernoulli": Likelihood(1, bernoulli, lambda eta: jnp.tanh(eta / 2), _bernoulli_sample),
    "logistic": Likelihood(
        2, lambda x, eta: discretised_logistic(x, *_halves(eta)), _location, _logistic_sample
    ),
}


# --- normal distributions of latents -------------------------------------------------------------


class Normal(NamedTuple):
    """N(μ, LLᵀ) for each example; L has the diagonal σ, and is diagonal without `lower`.

    Attributes:
        mean: μ [B, ...].
        log_std: ln σ [B, ...].
        lower: the entries of L below its diagonal, [B, D, D]; None: L is diagonal.
    """

    mean: Array
    log_std: Array
    lower: Array | None = None

    def sample(self, eps: Array) -> Array:
        """Return z = μ + σ⊙ε, or μ + Lε, for standard normal ε [B, ...]."""
        z = self.mean + jnp.exp(self.log_std) * eps
        return z if self.lower is None else z + jnp.einsum("bij,bj->bi", self.lower, eps)

    def log_prob(self, z: Array) -> Array:
        """Return ln N(z; μ, LLᵀ) [B], in nats."""
        if self.lower is None:
            return gaussian(z, self.mean, self.log_std)
        eps = jax.scipy.linalg.solve_triangular(
            self._tril(), (z - self.mean)[..., None], lower=True
        )
        return total(-0.5 * eps[..., 0] ** 2 - self.log_std - 0.5 * LN_2PI)

    def kl_from_standard(self) -> Array:
        """Return KL(N(μ, LLᵀ) ‖ N(0, I)) = ½ (‖L‖² + ‖μ‖² - D) - Σ ln σ: [B], in nats."""
        kl = total(0.5 * (jnp.exp(2 * self.log_std) + self.mean**2 - 1) - self.log_std)
        return kl if self.lower is None else kl + 0.5 * total(self.lower**2)

    def _tril(self) -> Array:
        assert self.lower is not None
        return self.lower + jnp.exp(self.log_std)[..., None] * jnp.eye(self.mean.shape[-1])


def standard_normal(z: Array) -> Array:
    """Return ln N(z; 0, I) for z [B, ...]: [B], in nats."""
    return total(-0.5 * z**2 - 0.5 * LN_2PI)


class Mixture(NamedTuple):
    """Σ_k π_k N(m_k, L_k L_kᵀ).

    Attributes:
        log_weights: ln π [K].
        means: [K, D].
        factors: L_k, lower triangular: [K, D, D].
    """

    log_weights: Array
    means: Array
    factors: Array

    def log_parts(self, z: Array) -> Array:
        """Return ln π_k N(z; m_k, L_k L_kᵀ) for z [B, D]: [B, K], in nats."""

        def part(log_weight: Array, mean: Array, factor: Array) -> Array:
            eps = jax.scipy.linalg.solve_triangular(factor, (z - mean).T, lower=True).T
            log_det = jnp.sum(jnp.log(jnp.abs(jnp.diagonal(factor))))
            return log_weight + standard_normal(eps) - log_det

        return jax.vmap(part, out_axes=1)(self.log_weights, self.means, self.factors)

    def log_prob(self, z: Array) -> Array:
        """Return the log-density of z [B, D]: [B], in nats."""
        return jax.nn.logsumexp(self.log_parts(z), axis=1)

    def sample(self, key: Key, num: int) -> Array:
        """Return `num` samples [num, D]."""
        which_key, noise_key = jax.random.split(key)
        k = jax.random.categorical(which_key, self.log_weights, shape=(num,))
        eps = rng.normal(noise_key, (num, self.means.shape[1]))
        return self.means[k] + jnp.einsum("bij,bj->bi", self.factors[k], eps)


def petals(num: int = 10, radius: float = 2.0, along: float = 0.7, across: float = 0.2) -> Mixture:
    """Return a mixture of `num` 2-D Gaussians like the petals of a flower, elongated radially.

    Args:
        num: number of petals.
        radius: of the circle of their means.
        along: standard deviation in the radial direction.
        across: standard deviation in the tangential direction.
    """
    if num < 1:
        raise InputError(f"num = {num}; a mixture must have at least 1 component")
    angles = 2 * np.pi * np.arange(num) / num
    out = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    turned = np.stack([-out[:, 1], out[:, 0]], axis=1)
    covariances = along**2 * out[:, :, None] * out[:, None] + across**2 * (
        turned[:, :, None] * turned[:, None]
    )
    return Mixture(
        jnp.full(num, -np.log(num), jnp.float32),
        jnp.asarray(radius * out, jnp.float32),
        jnp.asarray(np.linalg.cholesky(covariances), jnp.float32),
    )
