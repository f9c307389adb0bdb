"""The evidence lower bound and its parts, shared by the models of the VAE family.

`cfg` is a Config of `gengen.vae.vae`, or one with the same fields; `net` a network with the methods
`posterior` and `eta`, as `gengen.vae.networks.VAE`.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen import distributions as dist
from gengen import optim, rng
from gengen.types import Array, InputError, Key, Metrics, PyTree
from gengen.vae.networks import apply, likelihood
from gengen.xla import jit

# For calls from outside; what a train step makes of it depends on the context it is traced in.
compiled = jit(0, 2, often=False)(apply)


def observed(cfg: Any, x: Array, key: Key | None) -> Array:
    """Return what the likelihood is of: x, or its binary image ±1, by threshold without a key."""
    return x if likelihood(cfg).parts == 2 else dist.binarise(x, key, cfg.binarise)


def log_prior(cfg: Any, z: Array) -> Array:
    """Return ln p(z) for z [B, *latent_shape]: [B], in nats."""
    return dist.standard_normal(z) if cfg.prior == "normal" else dist.petals().log_prob(z)


def sample_prior(cfg: Any, key: Key, num: int) -> Array:
    """Sample z ~ p(z): [num, *latent_shape]."""
    if cfg.prior == "normal":
        return rng.normal(key, (num, *cfg.latent_shape))
    return dist.petals().sample(key, num)


def terms(
    cfg: Any, net: nn.Module, variables: PyTree, x: Array, key: Key, *y: Array
) -> dict[str, Array]:
    """Return the two terms of -ELBO for observed x, [B] in nats: "reconstruction" and "kl".

    `y` are further arguments [B, ...] of the network's `posterior` and `eta`.
    """
    q: dist.Normal = apply(net, variables, "posterior", x, *y)
    num = cfg.num_latent_samples
    eps = rng.normal(key, (x.shape[0], num, *cfg.latent_shape))
    reconstruction, kl = jnp.zeros(x.shape[0]), jnp.zeros(x.shape[0])
    for i in range(num):
        z = q.sample(eps[:, i])
        eta = apply(net, variables, "eta", z, *y)
        reconstruction += -likelihood(cfg).log_prob(x, eta) / num
        kl += (q.log_prob(z) - log_prior(cfg, z)) / num
    if cfg.prior == "normal":
        kl = q.kl_from_standard()
    return {"reconstruction": reconstruction, "kl": kl}


def log_ratio(cfg: Any, net: nn.Module, variables: PyTree, x: Array, key: Key, *y: Array) -> Array:
    """Return ln w = ln p(x|z) + ln p(z) - ln q(z|x) of observed x and one z ~ q(z|x): [B], nats."""
    q: dist.Normal = apply(net, variables, "posterior", x, *y)
    z = q.sample(rng.normal(key, (x.shape[0], *cfg.latent_shape)))
    eta = apply(net, variables, "eta", z, *y)
    return likelihood(cfg).log_prob(x, eta) + log_prior(cfg, z) - q.log_prob(z)


def as_data(cfg: Any, eta: Array, key: Key | None = None) -> Array:
    """Return the mean of p(x|η), or with a key a sample; images are clipped to [-1, 1]."""
    x = likelihood(cfg).mean(eta) if key is None else likelihood(cfg).sample(key, eta)
    return jnp.clip(x, -1, 1) if len(cfg.shape) == 3 else x


def optimizer(cfg: Any) -> optax.GradientTransformation:
    """Return the Config's optimiser, for a loss with the penalty ½ weight_decay ‖θ‖².

    θ are the decoder's parameters; the penalty is -ln p(θ) per example, for a normal p(θ).
    """

    def of_decoder(params: PyTree) -> PyTree:
        mask = jax.tree.map(lambda _: False, params)
        return {**mask, "decoder": jax.tree.map(lambda _: True, params["decoder"])}

    tx = optim.optimizer(cfg)
    if not cfg.weight_decay:
        return tx
    return optax.chain(optax.add_decayed_weights(cfg.weight_decay, of_decoder), tx)


def weighted(cfg: Any, parts: dict[str, Array]) -> Array:
    """Return the loss: reconstruction + β kl, the mean over examples."""
    return jnp.mean(parts["reconstruction"] + cfg.beta * parts["kl"])


def means(parts: dict[str, Array]) -> Metrics:
    """Return each term's mean over examples."""
    return {name: jnp.mean(term) for name, term in parts.items()}


def check_latents(cfg: Any, z: ArrayLike) -> Array:
    """Return z as a float32 array [B, *latent_shape].

    Raises:
        InputError: for another shape.
    """
    z = jnp.asarray(z, jnp.float32)
    if z.shape[1:] != tuple(cfg.latent_shape):
        raise InputError(
            f"latents have shape {z.shape}; they must be [B, *Config.latent_shape], "
            f"latent_shape = {cfg.latent_shape}"
        )
    return z
