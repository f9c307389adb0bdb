r"""Exact velocities of data that are a mixture of isotropic Gaussians.

With z_t = (1-t) ε + t x and p(x) = Σ_k w_k N(m_k, s² I), given component k

    z_t ~ N(t m_k, σ_t² I),    σ_t² = (1-t)² + t² s²
    E[x - ε | z_t, k] = m_k + (t s² - (1-t)) (z_t - t m_k) / σ_t²

and Var[x - ε | z_t, k] = s²/σ_t² in each dimension, below which no loss can fall.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gengen.diffusion.exact import Mixture
from gengen.diffusion.ode import Velocity
from gengen.types import Array


def velocity(p: Mixture) -> Velocity:
    """Return u(z, t) = E[x - ε | z_t = z] for z [B, D] and isotropic components."""
    log_w, means = jnp.log(jnp.asarray(p.weights)), jnp.asarray(p.means, jnp.float32)
    s2 = float(p.covariance[0, 0])

    def u(z: Array, t: Array) -> Array:
        t = t[:, None]
        variance = (1 - t) ** 2 + t**2 * s2
        away = z[:, None] - t[..., None] * means  # [B, K, D]
        r = jax.nn.softmax(log_w - 0.5 * jnp.sum(away**2, -1) / variance, axis=1)
        each = means + ((t * s2 - (1 - t)) / variance)[..., None] * away
        return jnp.einsum("bk,bkd->bd", r, each)

    return u
