r"""cGAN: the conditional GAN, which draws what it is asked for.

Mirza & Osindero 2014, *Conditional Generative Adversarial Nets* (1411.1784). Both players are told
the class y:

    min_g max_D  E_{p(x,y)} ln D(x|y) + E_{p(y), z} ln (1 - D(g(z|y) | y))

y is drawn as in the data: it is that of the batch. The best D(x|y) is p(x|y)/(p(x|y) + q(x|y)), so
each class is a game of its own, by one pair of networks.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import optax
from jax.typing import ArrayLike

from gengen.gan import game as games
from gengen.gan import gan, players
from gengen.gan.game import Game, play
from gengen.types import Array, InputError, Key, Method, PyTree


@dataclass(frozen=True)
class Config(gan.Config):
    """As `gan`, told the class."""

    classes: int = 10  # values of the label y

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        super().__post_init__()
        if self.classes < 2:
            raise InputError(f"Config.classes = {self.classes}, but there are at least 2")


def game(cfg: Config) -> Game:
    """`gan`'s, with networks that are told y."""
    generator, discriminator = players.players(cfg, cfg.classes)
    return dataclasses.replace(
        gan.game(cfg), generator=generator, discriminator=discriminator, classes=cfg.classes
    )


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """One move each; `tx` in the place of Adam, for both. Metrics: see `gengen.gan.game.play`."""
    return play(game(cfg), *((tx, tx) if tx else players.adam(cfg)), ema_decay=cfg.ema_decay)


def sample(cfg: Config, variables: PyTree, key: Key, num: int, y: ArrayLike | None = None) -> Array:
    """Draw `num` samples g(z | y): float32 [num, *shape], images in [-1, 1].

    Args:
        cfg: of the model.
        variables: trained.
        key: of z.
        num: of samples.
        y: their classes [num]; None: each class in turn.
    """
    return games.sample(game(cfg), variables, key, num, y)
