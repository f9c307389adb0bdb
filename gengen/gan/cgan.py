r"""cGAN: the conditional GAN, which draws what it is asked for.

Mirza & Osindero 2014, *Conditional Generative Adversarial Nets* (1411.1784). Both players are told
the class y:

    min_g max_D  E_{p(x,y)} ln D(x|y) + E_{p(y), z} ln (1 - D(g(z|y) | y))

y is drawn as in the data: it is that of the batch. The best D(x|y) is p(x|y)/(p(x|y) + q(x|y)), so
each class is a game of its own, by one pair of networks.

The paper puts y beside x. `projection` is DCGAN's discriminator with a filter for each class
(Miyato & Koyama 2018, 1802.05637), which learns sooner what a class is.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import optax
from jax.typing import ArrayLike

from gengen.gan import dcgan, gan, players
from gengen.gan import game as games
from gengen.gan.game import Game, play
from gengen.types import Array, InputError, Key, Method, PyTree


@dataclass(frozen=True)
class Config(gan.Config):
    """As `gan`, told the class."""

    classes: int = 10  # values of the label y
    projection: bool = False  # D is told y at its end, by projection; else y is beside x

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        super().__post_init__()
        if self.classes < 2:
            raise InputError(f"Config.classes = {self.classes}, but there are at least 2")
        if self.projection and not (len(self.shape) == 3 and self.channels):
            raise InputError(
                f"Config.projection = True, but Config.shape = {self.shape} and Config.channels = "
                f"{self.channels}: it is for images, of at least one level"
            )


def game(cfg: Config) -> Game:
    """`gan`'s, with networks that are told y."""
    generator, discriminator = players.players(cfg, cfg.classes)
    if cfg.projection:
        discriminator = dcgan.Discriminator(cfg.channels, cfg.classes)
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
