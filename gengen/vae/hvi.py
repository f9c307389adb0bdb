r"""HVI: Hamiltonian steps inside the posterior.

Salimans, Kingma & Welling 2015, *Markov Chain Monte Carlo and Variational Inference: Bridging the
Gap* (1410.6460), algorithm 3. A VAE whose z_0 ~ q(z_0|x) goes through T transitions that draw it to
the true posterior:

    v' ~ N(0, I);   (z_t, v_t) = leapfrog(z_{t-1}, v'):
        v ← v + ε/2 ∇ ln p(x,z);   z ← z + ε v;   v ← v + ε/2 ∇ ln p(x,z);   ... `leapfrogs` times

A leapfrog step keeps volumes, so no Jacobian appears. The momenta are auxiliary variables; with a
model r(v_t|x, z_t) of how they came, normal and learned, climb

    ln p(x, z_T) - ln q(z_0|x) + Σ_t [ln r(v_t|x, z_t) - ln N(v'_t; 0, I)]

whose mean is a bound of ln p(x) (there is no accept-reject step). The step sizes ε of each
transition and dimension are learned too. With T = 0 it is the VAE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gengen import distributions as dist
from gengen import rng
from gengen.nn.mlp import MLP
from gengen.steps import descent, with_ema
from gengen.steps import method as close
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, check_shape
from gengen.vae import vae
from gengen.vae.vae import decode as decode
from gengen.vae.vae import sample as sample


@dataclass(frozen=True)
class Config(vae.Config):
    """That of the VAE, and of the transitions."""

    T: int = 1  # transitions
    leapfrogs: int = 2  # steps of each
    step_size: float = 0.05  # ε at the start, in the units of z
    reverse_widths: tuple[int, ...] = (64,)  # hidden layers of r

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        super().__post_init__()
        if self.T < 0 or self.leapfrogs < 1:
            raise InputError(
                f"Config.T = {self.T}, Config.leapfrogs = {self.leapfrogs}: at least 0; at least 1"
            )
        if not self.step_size > 0:
            raise InputError(f"Config.step_size = {self.step_size}, but it is positive")
        if len(self.code) != 1:
            raise InputError(f"Config.code = {self.code}, but here it is (D,)")


class HVI(vae.VAE):
    """A VAE with step sizes and the reverse model r."""

    cfg: Config  # pyright: ignore[reportIncompatibleVariableOverride]  it is not assigned to

    def setup(self):
        super().setup()
        cfg, dims = self.cfg, self.cfg.code[0]
        self.reverse = [MLP((*cfg.reverse_widths, 2 * dims)) for _ in range(cfg.T)]
        start = jax.nn.initializers.constant(np.log(cfg.step_size))
        self.log_steps = self.param("log_steps", start, (cfg.T, dims))

    def step_sizes(self) -> Array:
        """ε [T, D]."""
        return jnp.exp(self.log_steps)

    def momentum(self, q: dist.Normal, z: Array, t: int) -> dist.Normal:
        """r(v|x, z) after transition t; x is known by its q(z_0|x)."""
        h = self.reverse[t](jnp.concatenate([q.mean, q.log_std, z], axis=-1))
        mean, log_std = jnp.split(h, 2, axis=-1)
        return dist.Normal(mean, vae.MAX_LOG_STD * jnp.tanh(log_std / vae.MAX_LOG_STD))

    def __call__(self, x: Array) -> Array:
        q = self.posterior(x)
        for t in range(self.cfg.T):
            self.momentum(q, q.mean, t)
        return self.eta(q.mean)


# --- the mathematics -----------------------------------------------------------------------------


def leapfrog(gradient: Any, z: Array, v: Array, step: Array, num: int) -> tuple[Array, Array]:
    """`num` leapfrog steps of size `step` [D] from z, v [B, D], along `gradient` of ln p(x, z)."""
    v = v + 0.5 * step * gradient(z)
    for i in range(num):
        z = z + step * v
        v = v + (step if i < num - 1 else 0.5 * step) * gradient(z)
    return z, v


def path(cfg: Config, variables: PyTree, x: Array, key: Key) -> tuple[Array, dict[str, Array]]:
    """One path z_0, ..., z_T for observed x: z_T [B, D], and the terms of the bound, each [B].

    "reconstruction" -ln p(x|z_T), "kl" what else there is, in nats: their sum is -bound.
    """
    net = HVI(cfg)

    def apply(name: str, *args: Any) -> Any:
        return net.apply(variables, *args, method=name)

    def log_joint(z: Array) -> Array:
        return vae.likelihood(cfg).log_prob(x, apply("eta", z)) + vae.log_prior(cfg, z)

    gradient = jax.grad(lambda z: jnp.sum(log_joint(z)))
    q: dist.Normal = apply("posterior", x)
    eps = rng.normal(key, (x.shape[0], 1 + cfg.T, *cfg.code))
    z = q.draw(eps[:, 0])
    kl = q.log_prob(z)
    for t in range(cfg.T):
        start = eps[:, 1 + t]
        z, v = leapfrog(gradient, z, start, apply("step_sizes")[t], cfg.leapfrogs)
        kl = kl + dist.standard_normal(start) - apply("momentum", q, z, t).log_prob(v)
    reconstruction = -vae.likelihood(cfg).log_prob(x, apply("eta", z))
    return z, {"reconstruction": reconstruction, "kl": kl - vae.log_prior(cfg, z)}


_compiled_path = jax.jit(path, static_argnums=0)


# --- what the model can do -----------------------------------------------------------------------


def encode(cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None) -> Array:
    """A draw z_T for x [B, *shape]: [B, D]. Without a key binarised by threshold, and key 0."""
    x = vae.observed(cfg, check_shape({"x": x}, cfg.shape), key)
    return _compiled_path(cfg, variables, x, jax.random.key(0) if key is None else key)[0]


def reconstruct(cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None) -> Array:
    """The decoded code of x [B, *shape]: [B, *shape]."""
    return decode(cfg, variables, encode(cfg, variables, x, key))


def log_weights(cfg: Config, variables: PyTree, x: ArrayLike, key: Key, num: int = 64) -> Array:
    """`num` draws of the bound for x [B, *shape]: [num, B], in nats."""
    if num < 1:
        raise InputError(f"num = {num}, but at least 1 path is drawn")
    return _log_weights(cfg, variables, check_shape({"x": x}, cfg.shape), key, num)


@jax.jit(static_argnums=(0, 4))
def _log_weights(cfg: Config, variables: PyTree, x: Array, key: Key, num: int) -> Array:
    see_key, noise_key = jax.random.split(key)
    x = vae.observed(cfg, x, see_key)

    def one(i: Array) -> Array:
        parts = path(cfg, variables, x, jax.random.fold_in(noise_key, i))[1]
        return -parts["reconstruction"] - parts["kl"]

    return jax.lax.map(one, jnp.arange(num))


def elbo(cfg: Config, variables: PyTree, x: ArrayLike, key: Key) -> Array:
    """A bound of ln p(x) from one path, for x [B, *shape]: [B], in nats."""
    return log_weights(cfg, variables, x, key, 1)[0]


def log_prob(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None, num: int = 64
) -> Array:
    """The importance-weighted bound by `num` paths, for x [B, *shape]: [B], in nats."""
    weights = log_weights(cfg, variables, x, jax.random.key(0) if key is None else key, num)
    return jax.nn.logsumexp(weights, axis=0) - np.log(num)


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """Climb the bound; `tx` in the place of Adam.

    Metrics, nats per example: `reconstruction`, `kl` (with the momenta's part), and `loss`.
    """

    def init_variables(key: Key, batch: Batch) -> PyTree:
        return HVI(cfg).init(key, check_shape(batch, cfg.shape)[:1])

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        see_key, noise_key = jax.random.split(key)
        x = vae.observed(cfg, check_shape(batch, cfg.shape), see_key)
        parts = path(cfg, {"params": params, **mutables}, x, noise_key)[1]
        return vae.weigh(cfg, parts), (vae.means(parts), mutables)

    tx = tx or optax.adam(cfg.learning_rate)
    return close(init_variables, with_ema(descent(loss, tx), cfg.ema_decay))
