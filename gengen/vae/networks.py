"""Networks of the VAE family: encoder to q(z|x), decoder to the parameters of a likelihood.

`cfg` is a Config of the model: for `Head` of any of them, as all have the likelihood's fields.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from gengen import distributions as dist
from gengen.nn.codec import Decoder, Encoder, code_map
from gengen.nn.mirror import ACTIVATIONS
from gengen.types import Array, InputError, Shape
from gengen.vae.codebook import first_codes

MAX_LOG_STD = 7.0  # bound of |ln σ| of q(z|x)
OPTIONS = {
    "likelihood": ("", *dist.LIKELIHOODS),
    "scale_mode": ("fixed", "shared", "each"),
    "binarise": dist.BINARISATIONS,
    "covariance": ("diagonal", "full"),
    "prior": ("normal", "petals"),
    "activation": tuple(ACTIVATIONS),
    "level_activation": tuple(ACTIVATIONS),
}


def check_options(cfg: Any) -> None:
    """Check the fields of a VAE's Config that name one of several options.

    Raises:
        InputError: naming the field and its values.
    """
    for name, values in OPTIONS.items():
        if getattr(cfg, name) not in values:
            raise InputError(f"Config.{name} = {getattr(cfg, name)!r}; it must be one of {values}")


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
        levels = layers(cfg)
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


def layers(cfg: Any) -> dict[str, Any]:
    """Return what a Config says of the layers of `Encoder` and `Decoder`."""
    names = ("channels", "strides", "hidden", "activation", "init_std", "kernel_size",
             "level_activation")  # fmt: skip
    return {name: getattr(cfg, name) for name in names}


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


class CVAE(nn.Module):
    """The encoder, (x, y) → q(z|x,y), and the decoder, (z, y) → η, with y of `cvae`."""

    cfg: Any

    def setup(self):
        cfg = self.cfg
        levels = layers(cfg)
        *space, last = cfg.shape
        num = cfg.num_classes
        beside, beside_z = (last, cfg.condition_dim) if cfg.known_region else (num, num)
        self.encoder = Encoder((*space, last + beside), posterior_shape(cfg), **levels)
        self.decoder = Decoder(output_shape(cfg), (cfg.latent_shape[0] + beside_z,), **levels)
        self.head = Head(cfg)
        if cfg.known_region:
            self.look = Encoder(cfg.shape, (beside_z,), **levels)

    def posterior(self, x: Array, y: Array) -> dist.Normal:
        """Return q(z|x,y)."""
        if not self.cfg.known_region:  # planes of the classes' weights, of the size of x
            y = jnp.broadcast_to(
                y.reshape(len(y), *(1,) * (x.ndim - 2), -1), (*x.shape[:-1], y.shape[-1])
            )
        return posterior_of(self.cfg, self.encoder(jnp.concatenate([x, y], axis=-1)))

    def eta(self, z: Array, y: Array) -> Array:
        """Return the parameters of the likelihood: [B, ..., parts · C]."""
        y = self.look(y) if self.cfg.known_region else y
        return self.head(self.decoder(jnp.concatenate([z, y], axis=-1)))

    def __call__(self, x: Array, y: Array) -> Array:
        return self.eta(self.posterior(x, y).mean, y)


class VQVAE(nn.Module):
    """Encoder, x → z_e [B, *places, D]; decoder, z_q → η; the codebook, if it is a parameter."""

    cfg: Any

    def setup(self):
        cfg = self.cfg
        *space, last = (*places(cfg), cfg.code_dim)
        latent_shape = (*space[:2], math.prod((*space[2:], last)))  # codes of a place side by side
        if len(cfg.shape) == 1:
            latent_shape = (math.prod(latent_shape),)
        options: Any = dict(
            channels=cfg.channels, strides=cfg.strides, num_blocks=cfg.num_blocks,
            hidden=cfg.hidden, residual_kernel_size=cfg.residual_kernel_size,
            transposed=cfg.transposed,
        )  # fmt: skip
        self.encoder = Encoder(cfg.shape, latent_shape, **options)
        self.decoder = Decoder(output_shape(cfg), latent_shape, **options)
        self.likelihood = Head(cfg)
        if not cfg.codebook_decay:
            self.codebook = self.param("codebook", first_codes, (cfg.codebook_size, cfg.code_dim))

    def z_e(self, x: Array) -> Array:
        """Return the encodings of x before quantisation."""
        return self.encoder(x).reshape(-1, *places(self.cfg), self.cfg.code_dim)

    def eta(self, z_q: Array) -> Array:
        """Return the parameters of the likelihood."""
        space = () if len(self.cfg.shape) == 1 else z_q.shape[1:3]
        return self.likelihood(self.decoder(z_q.reshape(len(z_q), *space, -1)))

    def __call__(self, x: Array) -> Array:
        return self.eta(self.z_e(x))


def places(cfg: Any) -> Shape:
    """Return the shape of an example's codes: (h, w) of images, (num_codes,) of vectors.

    With several codes in a place of an image it is (h, w, codes_per_place).
    """
    if len(cfg.shape) == 1:
        return (cfg.num_codes,)
    space = code_map(cfg.shape, cfg.code_dim, len(cfg.channels), cfg.strides)[:2]
    return (*space, cfg.codes_per_place) if cfg.codes_per_place > 1 else space


def apply(net: nn.Module, variables: Any, name: str, *args: Array) -> Any:
    """Apply a network's method `name`."""
    return net.apply(variables, *args, method=name)
