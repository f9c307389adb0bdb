r"""WGAN-GP: the Wasserstein GAN with a penalty on the critic's gradient.

Gulrajani et al. 2017, *Improved Training of Wasserstein GANs* (1704.00028). Instead of clipping its
weights (`gengen.gan.wgan`), the critic f minimises

    E_z f(g(z)) - E_p f(x) + λ E (‖∇f(x̂)‖ - 1)²,    x̂ = εx + (1 - ε) g(z),  ε ~ U[0, 1]

because the best critic has a gradient of norm 1 almost everywhere on lines between the two
distributions. The critic has no batch norm: the penalty is on each x by itself.

Between two points at distance θ the best critic's gap is not W₁ = θ, but θ(1 + θ/(2λ)): a critic
of slope s gains sθ and pays λ(s - 1)².
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen import rng
from gengen.contract import Task
from gengen.contract import unconditional as condition_of
from gengen.gan import game as games
from gengen.gan import networks
from gengen.gan.game import Discriminator, Game, Networks, Penalty, play, with_networks
from gengen.gan.wgan import wasserstein
from gengen.types import Array, InputError, Key, Method, PyTree

__all__ = [
    "Config", "condition_of", "game", "gradient_penalty", "gradients", "method", "norm", "sample",
    "wasserstein",
]  # fmt: skip


@dataclass(frozen=True)
class Config(networks.Config):
    """The paper's penalty and Adam, with fewer steps of the critic, between small networks."""

    gradient_penalty: float = 10.0  # λ
    n_critic: int = 3  # steps of the critic for each of the generator
    batch_size: int = 96  # examples per step: an n_critic-th for each of the critic's steps

    b1: float = 0.0  # of Adam: decay of the gradient's average, per step
    b2: float = 0.9  # of Adam: decay of the squared gradient's average, per step

    RENAMED: ClassVar[dict[str, str | None]] = {"penalty": "gradient_penalty"}

    @classmethod
    def paper(cls) -> Self:
        """Return Algorithm 1 with its constants, for DCGAN-sized networks on 64×64 images.

        The paper's networks have transposed convolutions, and layer norm in the critic of some
        experiments.
        """
        return cls(
            shape=(64, 64, 3), latent_dim=128, channels=(64, 128, 256, 512), batch_size=5 * 64,
            learning_rate=1e-4, discriminator_learning_rate=1e-4, b1=0.0, b2=0.9, decay_steps=0,
            ema_decay=0.0, gradient_penalty=10.0, n_critic=5,
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data, number of train steps and device."""
        default = cls()
        fields = networks.task_fields(task) | {"b2": default.b2}
        fields["batch_size"] = default.n_critic * (64 if task.accelerator else 32)
        if len(task.shape) == 1:  # as in experiments/mode_collapse.py
            fields |= {"batch_size": 5 * 256, "n_critic": 5, "gradient_penalty": 1.0, "b2": 0.99}
        return dataclasses.replace(default, **fields)

    def __post_init__(self):
        """Check the fields."""
        super().__post_init__()
        if not self.gradient_penalty >= 0:
            raise InputError(
                f"Config.gradient_penalty = {self.gradient_penalty}; it must be at least 0"
            )
        if self.n_critic < 1 or self.batch_size % self.n_critic:
            raise InputError(
                f"Config.batch_size = {self.batch_size} is not a multiple of Config.n_critic = "
                f"{self.n_critic}"
            )


def gradients(D: Discriminator, x: Array) -> Array:
    """Return ∇D at each x [B, ...], flattened to [B, -1]. D must be a function of one x."""
    return jax.grad(lambda x: D(x).sum())(x).reshape(len(x), -1)


def norm(v: Array) -> Array:
    """Return ‖v‖ of each row: [B]. Its gradient at v = 0 is 0, not NaN."""
    square = jnp.sum(v**2, axis=1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def gradient_penalty(weight: float = 10.0) -> Penalty:
    """Return λ E (‖∇D(x̂)‖ - 1)², with x̂ uniform between a real and a fake example."""

    def of(D: Discriminator, real: Array, fake: Array, key: Key) -> Array:
        epsilon = rng.uniform(key, (len(real), *(1,) * (real.ndim - 1)))
        between = epsilon * real + (1 - epsilon) * fake
        return weight * jnp.mean((norm(gradients(D, between)) - 1) ** 2)

    return Penalty("gradient_penalty", of)


def game(cfg: Config, net: Networks | None = None) -> Game:
    """Return the two networks, the Config's or the user's own, with the losses and the penalty."""
    penalties = (gradient_penalty(cfg.gradient_penalty),)
    both = networks.networks(cfg)
    return with_networks(Game(*both, cfg.shape, cfg.latent_dim, wasserstein(), penalties), net)


def method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: Networks | None = None
) -> Method:
    """Return the method: n_critic steps of the critic, then one of the generator.

    Metrics: see `gengen.gan.game.play`. The critic is the player "discriminator".

    Args:
        cfg: of the model.
        tx: to use instead of Adam, for both players.
        net: as in `gan.method`.
    """
    txs = (tx, tx) if tx else networks.adam(cfg, cfg.n_critic)
    return play(game(cfg, net), *txs, n_critic=cfg.n_critic, ema_decay=cfg.ema_decay)


def sample(
    cfg: Config,
    variables: PyTree,
    key: Key,
    num: int,
    *,
    condition: ArrayLike | None = None,
    net: Networks | None = None,
) -> Array:
    """Sample g(z): float32 [num, *shape], images in [-1, 1]."""
    return games.sample(game(cfg, net), variables, key, num, condition)
