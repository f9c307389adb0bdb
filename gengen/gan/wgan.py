r"""Wasserstein GAN.

Arjovsky, Chintala & Bottou 2017, *Wasserstein GAN* (1701.07875). By Kantorovich and Rubinstein,

    W₁(p, q) = sup { E_p f - E_q f : f 1-Lipschitz }

The critic f climbs E_p f(x) - E f(g(z)) over weights in [-c, c], whose functions are K-Lipschitz
for some K; the generator g descends the gap that is left. Algorithm 1:

    for each step:
        n_critic times:  m fresh data, m fresh z;  f climbs by RMSProp;  weights are clipped to c
        m fresh z;  g descends -E f(g(z)) by RMSProp

So one train step uses n_critic · m examples: that is `Config.batch_size`. `critic_loss` is the gap,
an estimate of K · W₁ that falls as samples get better.
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from gengen import rng
from gengen.gan import failing
from gengen.nn.conv import ConvDecoder, ConvEncoder
from gengen.nn.mlp import MLP
from gengen.optim import ascend, clip_weights
from gengen.steps import method as close
from gengen.steps import player, repeat, sequence
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, Shape, check_shape


@dataclass(frozen=True)
class Config:
    """The constants of Algorithm 1; networks of a size that a laptop trains."""

    shape: Shape = (28, 28, 1)  # of one example: (H, W, C) in [-1, 1], or (D,)
    m: int = 64  # examples for each move
    n_critic: int = 5  # moves of the critic for each of the generator
    c: float = 0.01  # largest weight of the critic
    learning_rate: float = 5e-5  # of RMSProp, for both players
    latent: int = 100  # dimensions of z ~ N(0, I)
    channels: tuple[int, ...] = (64, 128)  # of the critic's levels (reversed: the generator's)
    widths: tuple[int, ...] = (256, 256, 256)  # hidden layers of both players, for vectors

    @staticmethod
    def paper() -> Config:
        """The paper's 64×64 images, DCGAN-sized players."""
        return Config(shape=(64, 64, 3), channels=(64, 128, 256, 512))

    @property
    def batch_size(self) -> int:
        """Examples a step: m for each of the critic's moves."""
        return self.m * self.n_critic

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        for name in ("m", "n_critic", "c", "learning_rate", "latent"):
            if not getattr(self, name) > 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}, but it is positive")
        if len(self.shape) not in (1, 3) or min(self.shape, default=0) < 1:
            raise InputError(f"Config.shape = {self.shape}, but it is (H, W, C) or (D,)")
        if not self.channels:
            raise InputError("Config.channels is empty, but images need at least one level")


class Generator(nn.Module):
    """g: z [B, latent] → x [B, *shape]."""

    cfg: Config

    @nn.compact
    def __call__(self, z: Array, train: bool = False) -> Array:
        if len(self.cfg.shape) == 1:
            return MLP((*self.cfg.widths, *self.cfg.shape))(z)
        return ConvDecoder(self.cfg.shape, self.cfg.channels[::-1])(z, train)


class Critic(nn.Module):
    """f: x [B, *shape] → [B]. No normalisation: f must be a function of one x."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if len(self.cfg.shape) == 1:
            return MLP((*self.cfg.widths, 1))(x)[:, 0]
        return ConvEncoder(1, self.cfg.channels)(x)[:, 0]


def criticise(cfg: Config, variables: PyTree, x: Array) -> Array:
    """f(x) [B]."""
    return jnp.asarray(Critic(cfg).apply({"params": variables["params"]["critic"]}, x))


def _of_generator(variables: PyTree) -> PyTree:
    """The generator's own variables: its part of every collection."""
    return {name: tree["generator"] for name, tree in variables.items() if "generator" in tree}


def sample(cfg: Config, variables: PyTree, key: Key, num: int) -> Array:
    """Draw `num` samples g(z): float32 [num, *shape], images in [-1, 1]."""
    if num < 1:
        raise InputError(f"num = {num}, but at least 1 sample is drawn")
    return _sample(cfg, variables, key, num)


@jax.jit(static_argnums=(0, 3))
def _sample(cfg: Config, variables: PyTree, key: Key, num: int) -> Array:
    z = rng.normal(key, (num, cfg.latent))
    return jnp.asarray(Generator(cfg).apply(_of_generator(variables), z))


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """Algorithm 1; `tx` in the place of RMSProp, for both players.

    Metrics: `critic_loss`, the gap E f(x) - E f(g(z)) that the critic climbs (mean over its moves);
    `generator_loss`, -E f(g(z)); `spread`, by which it warns (`gengen.gan.failing`).
    """
    # The decay of squared gradients that the authors' code (PyTorch's default) uses.
    tx = tx or optax.rmsprop(cfg.learning_rate, decay=0.99)

    def init_variables(key: Key, batch: Batch) -> PyTree:
        x = check_shape(batch, cfg.shape)
        generator_key, critic_key = jax.random.split(key)
        mutables = dict(Generator(cfg).init(generator_key, jnp.zeros((1, cfg.latent))))
        params = {
            "generator": mutables.pop("params"),
            "critic": Critic(cfg).init(critic_key, x[:1])["params"],
        }
        return {"params": params, **{k: {"generator": v} for k, v in mutables.items()}}

    def generate(params: PyTree, mutables: PyTree, key: Key, num: int) -> tuple[Array, PyTree]:
        z = rng.normal(key, (num, cfg.latent))
        variables = _of_generator({"params": params, **mutables})
        x, changed = Generator(cfg).apply(variables, z, train=True, mutable=list(mutables))
        return jnp.asarray(x), {name: {"generator": tree} for name, tree in changed.items()}

    def gap(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x = check_shape(batch, cfg.shape)
        fake, _ = generate(params, mutables, key, x.shape[0])
        variables = {"params": params}
        value = criticise(cfg, variables, x).mean() - criticise(cfg, variables, fake).mean()
        return value, ({"spread": failing.spread(x, fake)}, mutables)

    def generator_loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        num = check_shape(batch, cfg.shape).shape[0] // cfg.n_critic
        fake, mutables = generate(params, mutables, key, num)
        return -criticise(cfg, {"params": params}, fake).mean(), ({}, mutables)

    climb = optax.chain(ascend(tx), clip_weights(cfg.c))
    return close(
        init_variables,
        sequence(
            repeat(player("critic", gap, climb), cfg.n_critic),
            player("generator", generator_loss, tx),
        ),
        failing.warn,
    )
