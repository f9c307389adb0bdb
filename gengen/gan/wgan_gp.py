r"""WGAN-GP: the Wasserstein GAN, its critic held by a penalty on its gradient.

Gulrajani et al. 2017, *Improved Training of Wasserstein GANs* (1704.00028). In the place of clipped
weights (`gengen.gan.wgan`) the critic f descends

    E_z f(g(z)) - E_p f(x) + λ E (‖∇f(x̂)‖ - 1)²,    x̂ = εx + (1 - ε) g(z),  ε ~ U[0, 1]

for the best critic has a gradient of norm 1 almost everywhere on the lines between the two laws.
No batch norm in the critic: the penalty is of each x for itself.

Between two points at distance θ the best critic's gap is not W₁ = θ, but θ(1 + θ/(2λ)): of slope s
it gains sθ and pays λ(s - 1)².
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from gengen import rng
from gengen.gan import game as games
from gengen.gan import players
from gengen.gan.game import Discriminator, Game, Losses, Penalty, play
from gengen.types import Array, InputError, Key, Method, PyTree


@dataclass(frozen=True)
class Config(players.Config):
    """The constants of the paper's Algorithm 1; networks of a size that a laptop trains."""

    penalty: float = 10.0  # λ
    n_critic: int = 5  # moves of the critic for each of the generator
    batch_size: int = 320  # examples a step: 64 for each of the critic's moves

    learning_rate: float = 1e-4  # of the generator's Adam
    discriminator_rate: float = 1e-4  # of the critic's
    b1: float = 0.0  # of Adam: memory of the gradient, a step
    b2: float = 0.9  # of Adam: memory of the squared gradient, a step

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        super().__post_init__()
        if not self.penalty >= 0:
            raise InputError(f"Config.penalty = {self.penalty}, but it is at least 0")
        if self.n_critic < 1 or self.batch_size % self.n_critic:
            raise InputError(
                f"Config.batch_size = {self.batch_size} is no multiple of Config.n_critic = "
                f"{self.n_critic}"
            )


def wasserstein() -> Losses:
    """The critic descends E f(g(z)) - E f(x), the generator -E f(g(z))."""
    return Losses(lambda real, fake: fake.mean() - real.mean(), lambda fake: -fake.mean())


def gradients(D: Discriminator, x: Array) -> Array:
    """∇D at each x [B, ...]: [B, the rest in a row]. D must be a function of one x at a time."""
    return jax.grad(lambda x: D(x).sum())(x).reshape(len(x), -1)


def norm(v: Array) -> Array:
    """‖v‖ of rows: [B]. Where v = 0, of gradient 0 and not NaN."""
    square = jnp.sum(v**2, axis=1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def gradient_penalty(weight: float = 10.0) -> Penalty:
    """λ E (‖∇D(x̂)‖ - 1)², x̂ anywhere between a real example and a generated one."""

    def of(D: Discriminator, real: Array, fake: Array, key: Key) -> Array:
        epsilon = rng.uniform(key, (len(real), *(1,) * (real.ndim - 1)))
        between = epsilon * real + (1 - epsilon) * fake
        return weight * jnp.mean((norm(gradients(D, between)) - 1) ** 2)

    return Penalty("gradient_penalty", of)


def game(cfg: Config) -> Game:
    """The two networks, the losses and the penalty."""
    penalties = (gradient_penalty(cfg.penalty),)
    return Game(*players.players(cfg), cfg.shape, cfg.latent, wasserstein(), penalties)


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """n_critic moves, then the generator's; `tx` in the place of Adam, for both.

    Metrics: see `gengen.gan.game.play`.
    """
    txs = (tx, tx) if tx else players.adam(cfg)
    return play(game(cfg), *txs, n_critic=cfg.n_critic, ema_decay=cfg.ema_decay)


def sample(cfg: Config, variables: PyTree, key: Key, num: int) -> Array:
    """Draw `num` samples g(z): float32 [num, *shape], images in [-1, 1]."""
    return games.sample(game(cfg), variables, key, num)
