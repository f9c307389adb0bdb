r"""HVI: Hamiltonian steps inside the posterior.

Salimans, Kingma & Welling 2015, *Markov Chain Monte Carlo and Variational Inference: Bridging the
Gap* (1410.6460), algorithm 3. A VAE whose z_0 ~ q(z_0|x) goes through T transitions towards the
true posterior:

    v' ~ N(0, I);   (z_t, v_t) = leapfrog(z_{t-1}, v'):
        v ← v + ε/2 ∇ ln p(x,z);   z ← z + ε v;   v ← v + ε/2 ∇ ln p(x,z);   ... several times

A leapfrog step preserves volume, so that there is no Jacobian. The momenta are auxiliary variables.
With a learned normal model r(v_t|x, z_t) of them, training maximises

    ln p(x, z_T) - ln q(z_0|x) + Σ_t [ln r(v_t|x, z_t) - ln N(v'_t; 0, I)]

whose mean is a lower bound of ln p(x) (there is no accept-reject step). The step sizes ε of each
transition and dimension are learned too. With T = 0 it is the VAE.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gengen import distributions as dist
from gengen import rng
from gengen.contract import refuse_condition, require_num
from gengen.contract import unconditional as condition_of
from gengen.nn.mlp import MLP
from gengen.steps import descent, with_ema
from gengen.steps import method as build
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, check_shape
from gengen.vae import bounds, vae
from gengen.vae.bounds import sample_prior as sample_prior
from gengen.vae.networks import MAX_LOG_STD, VAE, likelihood
from gengen.xla import jit

__all__ = [
    "LOG_PROB", "Config", "condition_of", "decode", "elbo", "encode", "log_prob", "log_weights",
    "method", "reconstruct", "sample", "sample_prior",
]  # fmt: skip

LOG_PROB = "importance weighted"


@dataclass(frozen=True)
class Config(vae.Config):
    """That of the VAE, and of the transitions."""

    num_transitions: int = 1  # T
    num_leapfrog_steps: int = 2  # of each transition
    step_size: float = 0.05  # initial ε, in the units of z
    reverse_hidden: tuple[int, ...] = (64,)  # hidden layers of r

    RENAMED: ClassVar[dict[str, str | None]] = {
        "T": "num_transitions", "leapfrogs": "num_leapfrog_steps",
        "reverse_widths": "reverse_hidden",
    }  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """Return sizes of the paper's convolutional VAE of MNIST, one transition of 16 steps.

        Difference: r is a network of q(z_0|x) and z_t rather than of x and z_t.
        """
        return cls(
            shape=(28, 28, 1), latent_shape=(32,), likelihood="bernoulli", channels=(16, 32, 32),
            kernel_size=5, level_activation="softplus", hidden=(450,), activation="softplus",
            num_transitions=1, num_leapfrog_steps=16, reverse_hidden=(450,), ema_decay=0.0,
        )  # fmt: skip

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        super().__post_init__()
        for name, least in (("num_transitions", 0), ("num_leapfrog_steps", 1)):
            if getattr(self, name) < least:
                raise InputError(
                    f"Config.{name} = {getattr(self, name)}; it must be at least {least}"
                )
        if not self.step_size > 0:
            raise InputError(f"Config.step_size = {self.step_size}; it must be positive")
        if len(self.latent_shape) != 1:
            raise InputError(f"Config.latent_shape = {self.latent_shape}; it must be (D,)")


class HVI(VAE):
    """A VAE with step sizes and the reverse model r."""

    def setup(self):
        super().setup()
        cfg, dims = self.cfg, self.cfg.latent_shape[0]
        num = cfg.num_transitions
        widths = (*cfg.reverse_hidden, 2 * dims)
        self.reverse = [MLP(widths, cfg.activation) for _ in range(num)]
        if num:  # checkpoints hold no empty arrays
            start = jax.nn.initializers.constant(np.log(cfg.step_size))
            self.log_steps = self.param("log_steps", start, (num, dims))

    def step_sizes(self) -> Array:
        """Return ε [T, D]."""
        cfg = self.cfg
        return jnp.exp(self.log_steps) if cfg.num_transitions else jnp.zeros((0, *cfg.latent_shape))

    def momentum(self, q: dist.Normal, z: Array, t: int) -> dist.Normal:
        """Return r(v|x, z) after transition t; x enters by its q(z_0|x)."""
        h = self.reverse[t](jnp.concatenate([q.mean, q.log_std, z], axis=-1))
        mean, log_std = jnp.split(h, 2, axis=-1)
        return dist.Normal(mean, MAX_LOG_STD * jnp.tanh(log_std / MAX_LOG_STD))

    def __call__(self, x: Array) -> Array:
        q = self.posterior(x)
        for t in range(self.cfg.num_transitions):
            self.momentum(q, q.mean, t)
        return self.eta(q.mean)


# --- the mathematics -----------------------------------------------------------------------------


def leapfrog(
    gradient: Callable[[Array], Array], z: Array, v: Array, step: Array, num: int
) -> tuple[Array, Array]:
    """Take `num` leapfrog steps of size `step` [D] from z, v [B, D]; `gradient` of ln p(x, z)."""
    v = v + 0.5 * step * gradient(z)
    for i in range(num):
        z = z + step * v
        v = v + (step if i < num - 1 else 0.5 * step) * gradient(z)
    return z, v


def path(cfg: Config, variables: PyTree, x: Array, key: Key) -> tuple[Array, dict[str, Array]]:
    """Sample a path z_0, ..., z_T for observed x; return z_T [B, D] and the terms of -bound, [B].

    The terms, in nats, are "reconstruction" -ln p(x|z_T), and "kl", the rest.
    """
    net = HVI(cfg)

    def apply(name: str, *args: Any) -> Any:
        return net.apply(variables, *args, method=name)

    def log_joint(z: Array) -> Array:
        return likelihood(cfg).log_prob(x, apply("eta", z)) + bounds.log_prior(cfg, z)

    gradient = jax.grad(lambda z: jnp.sum(log_joint(z)))
    q: dist.Normal = apply("posterior", x)
    eps = rng.normal(key, (x.shape[0], 1 + cfg.num_transitions, *cfg.latent_shape))
    z = q.sample(eps[:, 0])
    kl = q.log_prob(z)
    for t in range(cfg.num_transitions):
        start = eps[:, 1 + t]
        z, v = leapfrog(gradient, z, start, apply("step_sizes")[t], cfg.num_leapfrog_steps)
        kl = kl + dist.standard_normal(start) - apply("momentum", q, z, t).log_prob(v)
    reconstruction = -likelihood(cfg).log_prob(x, apply("eta", z))
    return z, {"reconstruction": reconstruction, "kl": kl - bounds.log_prior(cfg, z)}


_compiled_path = jit(0, often=False)(path)


# --- what the model can do -----------------------------------------------------------------------


def encode(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None, *,
    condition: PyTree = None,
) -> Array:  # fmt: skip
    """Return a sample of z_T for x [B, *shape]: [B, D].

    Args:
        cfg: of the model.
        variables: of the trained model.
        x: images in [-1, 1], or vectors.
        key: of the path, and of dynamic binarisation; None: a fixed key, and by threshold.
        condition: None, as the model is unconditional.
    """
    refuse_condition(condition)
    x = bounds.observed(cfg, check_shape({"x": x}, cfg.shape), key)
    return _compiled_path(cfg, variables, x, jax.random.key(0) if key is None else key)[0]


def decode(cfg: Config, variables: PyTree, z: ArrayLike, *, condition: PyTree = None) -> Array:
    """Return E[x|z] for z [B, D]: [B, *shape]. See `vae.decode`."""
    return vae.decode(cfg, variables, z, condition=condition)


def reconstruct(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None, *,
    condition: PyTree = None,
) -> Array:  # fmt: skip
    """Return the decoded z_T of x [B, *shape]: [B, *shape]. See `encode`."""
    return decode(cfg, variables, encode(cfg, variables, x, key, condition=condition))


def sample(
    cfg: Config, variables: PyTree, key: Key, num: int, *,
    condition: PyTree = None, mean: bool | None = None,
) -> Array:  # fmt: skip
    """Sample z from the prior and decode it: float32 [num, *shape]. See `vae.sample`."""
    return vae.sample(cfg, variables, key, num, condition=condition, mean=mean)


def log_weights(cfg: Config, variables: PyTree, x: ArrayLike, key: Key, num: int = 64) -> Array:
    """Return the bounds of `num` paths for x [B, *shape]: [num, B], in nats."""
    require_num(num)
    return _log_weights(cfg, variables, check_shape({"x": x}, cfg.shape), key, num)


@jit(0, 4, often=False)
def _log_weights(cfg: Config, variables: PyTree, x: Array, key: Key, num: int) -> Array:
    observation_key, noise_key = jax.random.split(key)
    x = bounds.observed(cfg, x, observation_key)

    def one(i: Array) -> Array:
        parts = path(cfg, variables, x, jax.random.fold_in(noise_key, i))[1]
        return -parts["reconstruction"] - parts["kl"]

    return jax.lax.map(one, jnp.arange(num))


def elbo(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key, *, condition: PyTree = None
) -> Array:
    """Return the bound of ln p(x) by one path, for x [B, *shape]: [B], in nats."""
    refuse_condition(condition)
    return log_weights(cfg, variables, x, key, 1)[0]


def log_prob(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None, *,
    condition: PyTree = None, num: int = 64,
) -> Array:  # fmt: skip
    """Return the importance-weighted bound of ln p(x) by `num` paths: [B], in nats.

    Args:
        cfg: of the model.
        variables: of the trained model.
        x: [B, *shape].
        key: of the paths, and of dynamic binarisation; None: a fixed key.
        condition: None, as the model is unconditional.
        num: number of paths: the larger, the tighter the bound.
    """
    refuse_condition(condition)
    weights = log_weights(cfg, variables, x, jax.random.key(0) if key is None else key, num)
    return jax.nn.logsumexp(weights, axis=0) - np.log(num)


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """Maximise the bound, by Adam or by `tx`.

    Metrics, nats per example: `reconstruction`, `kl` (with the momenta's part), and `loss`.
    """

    def init_variables(key: Key, batch: Batch) -> PyTree:
        return HVI(cfg).init(key, check_shape(batch, cfg.shape)[:1])

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        observation_key, noise_key = jax.random.split(key)
        x = bounds.observed(cfg, check_shape(batch, cfg.shape), observation_key)
        parts = path(cfg, {"params": params, **mutables}, x, noise_key)[1]
        return bounds.weighted(cfg, parts), (bounds.means(parts), mutables)

    tx = tx or bounds.optimizer(cfg)
    return build(init_variables, with_ema(descent(loss, tx), cfg.ema_decay))
