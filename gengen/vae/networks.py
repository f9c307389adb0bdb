"""Networks of the VAE family: encoder to q(z|x), decoder to the parameters of a likelihood.

Each takes a Config, that of `gengen.vae.vae` or one that inherits from it, or has the same fields.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from gengen import distributions as dist
from gengen.nn.codec import Decoder, Encoder
from gengen.types import Array, Shape

MAX_LOG_STD = 7.0  # bound of |ln σ| of q(z|x)


def likelihood(cfg: Any) -> dist.Likelihood:
    """Return the p(x|η) that a Config names."""
    return dist.likelihood(cfg.likelihood or ("bernoulli" if len(cfg.shape) == 3 else "gaussian"))


def output_shape(cfg: Any) -> Shape:
    """Return the shape of the decoder's outputs for an example, before `Head`."""
    *space, last = cfg.shape
    return (*space, last * (likelihood(cfg).parts if cfg.scale_mode == "each" else 1))


class Head(nn.Module):
    """The parameters η of the likelihood: the decoder's outputs, with ln s beside them."""

    cfg: Any

    @nn.compact
    def __call__(self, out: Array) -> Array:
        cfg = self.cfg
        if likelihood(cfg).parts == 1:
            return out
        start = float(np.log(cfg.initial_scale))
        if cfg.scale_mode == "fixed":
            return jnp.concatenate([out, jnp.full_like(out, start)], axis=-1)
        if cfg.scale_mode == "shared":
            raw = self.param("log_scale", nn.initializers.constant(start), ())
            mean, raw = out, jnp.broadcast_to(raw, out.shape)
        else:
            mean, raw = jnp.split(out, 2, axis=-1)
            raw = raw + start
        # s = min_scale + exp(raw): the density of an always black pixel would be unbounded.
        return jnp.concatenate([mean, jnp.logaddexp(raw, float(np.log(cfg.min_scale)))], axis=-1)


class VAE(nn.Module):
    """The encoder, x [B, *shape] → q(z|x), and the decoder, z [B, *latent_shape] → η."""

    cfg: Any

    def setup(self):
        cfg = self.cfg
        levels: Any = dict(channels=cfg.channels, strides=cfg.strides, hidden=cfg.hidden)
        self.encoder = Encoder(cfg.shape, posterior_shape(cfg), **levels)
        self.decoder = Decoder(output_shape(cfg), cfg.latent_shape, **levels)
        self.head = Head(cfg)

    def posterior(self, x: Array) -> dist.Normal:
        """Return q(z|x)."""
        return posterior_of(self.cfg, self.encoder(x))

    def eta(self, z: Array) -> Array:
        """Return the parameters of the likelihood: [B, ..., parts · C]."""
        return self.head(self.decoder(z))

    def __call__(self, x: Array) -> Array:
        return self.eta(self.posterior(x).mean)


def posterior_shape(cfg: Any) -> Shape:
    """Return the shape of the encoder's outputs: μ, ln σ, and L below its diagonal."""
    *space, last = cfg.latent_shape
    more = last * (last - 1) // 2 if cfg.covariance == "full" else 0
    return (*space, 2 * last + more)


def posterior_of(cfg: Any, h: Array) -> dist.Normal:
    """Return q(z|x) for the encoder's outputs [B, *posterior_shape(cfg)]."""
    last = cfg.latent_shape[-1]
    mean, log_std, rest = jnp.split(h, (last, 2 * last), axis=-1)
    # Smoothly bounded by ±7: otherwise σ of an outlier, by an untrained layer, overflows.
    log_std = MAX_LOG_STD * jnp.tanh(log_std / MAX_LOG_STD)
    if cfg.covariance == "diagonal":
        return dist.Normal(mean, log_std)
    rows, columns = np.tril_indices(last, -1)
    lower = jnp.zeros((h.shape[0], last, last)).at[:, rows, columns].set(rest)
    return dist.Normal(mean, log_std, lower)


def apply(net: nn.Module, variables: Any, name: str, *args: Array) -> Any:
    """Apply a network's method `name`."""
    return net.apply(variables, *args, method=name)
