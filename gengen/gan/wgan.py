r"""Wasserstein GAN.

Arjovsky, Chintala & Bottou 2017, *Wasserstein GAN* (1701.07875). By Kantorovich and Rubinstein,

    W₁(p, q) = sup { E_p f - E_q f : f 1-Lipschitz }

The critic f maximises E_p f(x) - E f(g(z)) over weights in [-c, c], whose functions are K-Lipschitz
for some K; the generator g minimises the gap that is left. Algorithm 1:

    for each step:
        n_critic times:  m fresh data, m fresh z;  f ascends by RMSProp;  weights are clipped to c
        m fresh z;  g descends along -E f(g(z)) by RMSProp

So one train step uses n_critic · m examples, which is `Config.batch_size`. `critic_loss` is the
gap, an estimate of K · W₁ that falls as samples get better.

The authors' code, unlike Algorithm 1, trains the critic for 100 steps instead of 5 before each of
the generator's first 25 steps and before every 500th: `long_n_critic = 100`. A train step still
takes n_critic · m fresh examples. The generator waits until it has had 20 of them.

The model is a `Game` like the others, and can be combined with any penalty and transform.

Example:
    Instance noise on the critic's inputs, with the clipped weights of Algorithm 1:

    >>> from gengen.gan.regularization import instance_noise
    >>> cfg = Config(shape=(2,), hidden=(8,), latent_dim=2, critic_batch_size=4, n_critic=2)
    >>> noisy = dataclasses.replace(game(cfg), transforms=(instance_noise(0.1),))
    >>> tx = optax.rmsprop(cfg.learning_rate)
    >>> m = play(noisy, optax.chain(tx, clip_weights(cfg.weight_clip)), tx, cfg.n_critic)
    >>> batch = {"x": jax.numpy.ones((8, 2))}
    >>> state, metrics = m.train_step(jax.random.key(1), m.init(jax.random.key(0), batch), batch)
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen.contract import Task
from gengen.contract import unconditional as condition_of
from gengen.gan import dcgan, networks
from gengen.gan import game as games
from gengen.gan.game import GENERATOR, Game, Losses, Networks, play, with_networks
from gengen.optim import ScheduledConfig, ascend, clip_weights, learning_rate
from gengen.steps import Loss
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, Shape

__all__ = ["Config", "algorithm_1", "condition_of", "game", "method", "sample", "wasserstein"]

CRITIC = "critic"  # the name of the player among the parameters
# Steps of the generator with a long phase of the critic: the first ones, and every so-many-th.
FIRST, EVERY = 25, 500


@dataclass(frozen=True)
class Config(ScheduledConfig):
    """Algorithm 1 with a higher learning rate, between small networks."""

    shape: Shape = (28, 28, 1)  # of one example: (H, W, C) in [-1, 1], or (D,)
    critic_batch_size: int = 32  # examples per step of the critic: m
    n_critic: int = 5  # steps of the critic for each of the generator
    # Steps of the critic for each of the generator's first 25, and for every 500th: a multiple of
    # n_critic. 0: n_critic, as for all others.
    long_n_critic: int = 0
    weight_clip: float = 0.01  # largest absolute weight of the critic: c
    learning_rate: float = 2e-4  # of RMSProp, for both players
    latent_dim: int = 64  # dimensions of z ~ N(0, I)
    # Channels of each level of the critic, the finest first; of the generator in reverse order.
    # (): perceptrons, for images too.
    channels: tuple[int, ...] = (32, 64)
    hidden: tuple[int, ...] = (256, 256, 256)  # sizes of the hidden layers of perceptrons
    batch_norm: bool = False  # of images: DCGAN's networks, with batch norm in the critic too

    RENAMED: ClassVar[dict[str, str | None]] = {
        "m": "critic_batch_size", "c": "weight_clip", "latent": "latent_dim", "widths": "hidden",
    }  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """Return Algorithm 1 with its constants, for DCGAN's networks on 64×64 images (§4).

        The widths are those of the authors' code, half of DCGAN's; the paper does not state them.
        Algorithm 1 has no longer phases of the critic: `long_n_critic` is 0; it is 100 in the code.
        """
        return cls(
            shape=(64, 64, 3), critic_batch_size=64, n_critic=5, weight_clip=0.01,
            learning_rate=5e-5, latent_dim=100, channels=(64, 128, 256, 512), batch_norm=True,
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data and device."""
        fields = networks.network_fields(task)
        if task.accelerator:
            fields["critic_batch_size"] = 64
        return dataclasses.replace(cls(), **fields)

    @property
    def batch_size(self) -> int:
        """Examples per step: m for each of the critic's steps."""
        return self.critic_batch_size * self.n_critic

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and what it must be.
        """
        networks.check_data_shape(self.shape)
        for name in ("critic_batch_size", "n_critic", "weight_clip", "learning_rate", "latent_dim"):
            networks.require_positive(name, getattr(self, name))
        dcgan.check_batch_norm(self)
        if self.long_n_critic < 0 or self.long_n_critic % self.n_critic:
            raise InputError(
                f"Config.long_n_critic = {self.long_n_critic}; it must be 0, or a multiple of "
                f"n_critic = {self.n_critic}"
            )


def wasserstein() -> Losses:
    """Return the losses E f(g(z)) - E f(x) of the critic and -E f(g(z)) of the generator."""
    return Losses(lambda real, fake: fake.mean() - real.mean(), lambda fake: -fake.mean())


def game(cfg: Config, net: Networks | None = None) -> Game:
    """Return the generator and the critic, the Config's or the user's own, with the losses."""
    both = dcgan.networks_of(cfg)
    wgan = Game(*both, cfg.shape, cfg.latent_dim, wasserstein(), discriminator_name=CRITIC)
    return with_networks(wgan, net)


def algorithm_1(wgan: Game, n_critic: int = 1) -> dict[str, Loss]:
    """Return the gap, less any penalties, which the critic maximises, and the generator's loss.

    z is sampled with the step's own key, so that runs of earlier versions resume bit for bit.
    """
    critic_loss = games.discriminator_loss(wgan, lambda key: (key, *_other_keys(key, 2)))

    def gap(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        value, aux = critic_loss(params, mutables, key, batch)
        return -value, aux

    generator_loss = games.generator_loss(wgan, n_critic, lambda key: (key, *_other_keys(key, 1)))
    return {CRITIC: gap, GENERATOR: generator_loss}


def _other_keys(key: Key, num: int) -> list[Key]:
    """Return keys that no row of z is sampled with: those fold in the row's number."""
    return [jax.random.fold_in(key, 2**31 + i) for i in range(num)]


def generator_moves(step: ArrayLike, length: int) -> Array:
    """Return whether the generator moves in a train step, bool [].

    It moves in the last of the train steps that belong to each of its steps. These are `length` for
    its steps 0, ..., 24 and 500, 1000, 1500, ..., else one.

    Args:
        step: number of the train step, from 0.
        length: train steps in a long phase of the critic, at least 1.
    """
    since_first = jnp.asarray(step) - FIRST * length
    since_500th = since_first - (EVERY - FIRST)
    in_period = since_500th % (length + EVERY - 1)
    later = (since_500th < 0) | (in_period >= length - 1)
    return jnp.where(since_first < 0, (since_first + 1) % length == 0, later)


def method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: Networks | None = None
) -> Method:
    """Return Algorithm 1.

    Metrics: `critic_loss`, the gap E f(x) - E f(g(z)) that the critic maximises, as a mean over its
    steps; `generator_loss`, -E f(g(z)); the others of `gengen.gan.game.play`. Where the generator
    waits (`long_n_critic`), its loss and gradient are still measured.

    Args:
        cfg: of the model.
        tx: to use instead of RMSProp, for both players.
        net: as in `gan.method`: a generator and a critic.
    """
    # The decay of squared gradients that the authors' code (PyTorch's default) uses.
    generator_tx, rmsprop = (
        tx or optax.rmsprop(learning_rate(cfg, updates=updates), decay=0.99)
        for updates in (1, cfg.n_critic)
    )
    critic_tx = optax.chain(ascend(rmsprop), clip_weights(cfg.weight_clip))
    if cfg.long_n_critic:
        length = cfg.long_n_critic // cfg.n_critic
        generator_tx = optax.transforms.conditionally_mask(
            generator_tx, lambda step, **_: generator_moves(step, length)
        )
    wgan = game(cfg, net)
    losses = algorithm_1(wgan, cfg.n_critic)
    return play(wgan, critic_tx, generator_tx, n_critic=cfg.n_critic, losses=losses)


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
