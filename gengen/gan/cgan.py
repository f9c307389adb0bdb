r"""cGAN: the class-conditional GAN.

Mirza & Osindero 2014, *Conditional Generative Adversarial Nets* (1411.1784). Both networks are
conditioned on the class y:

    min_g max_D  E_{p(x,y)} ln D(x|y) + E_{p(y), z} ln (1 - D(g(z|y) | y))

with y distributed as in the data: it is the batch's. The best D(x|y) is p(x|y)/(p(x|y) + q(x|y)),
so that one pair of networks plays a game for each class.

The paper concatenates y to x. `projection` uses DCGAN's discriminator with a filter for each class
(Miyato & Koyama 2018, 1802.05637), which learns the classes sooner.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

import optax
from jax.typing import ArrayLike

from gengen.contract import Task, labels_of
from gengen.gan import dcgan, gan, networks
from gengen.gan import game as games
from gengen.gan.game import Game, Networks, play, with_networks
from gengen.types import Array, Batch, InputError, Key, Method, PyTree


@dataclass(frozen=True)
class Config(gan.Config):
    """As `gan`, conditioned on the class."""

    num_classes: int = 10  # of the label y
    # Condition D at its end, by projection, where it has `channels`; otherwise y is concatenated
    # to x.
    projection: bool = True

    RENAMED: ClassVar[dict[str, str | None]] = {"classes": "num_classes"}

    @classmethod
    def paper(cls) -> Self:
        """Return the sizes of the paper's networks on MNIST.

        In the paper y passes through layers of its own, the discriminator has maxout units, both
        networks have dropout, z is uniform, and they are trained by gradient descent with momentum.
        """
        return cls(
            shape=(28, 28, 1), latent_dim=100, channels=(), hidden=(1200, 1200), batch_size=100,
            learning_rate=2e-4, discriminator_learning_rate=2e-4, b1=0.5, b2=0.999, decay_steps=0,
            ema_decay=0.0, loss="nonsaturating", num_classes=10, projection=False,
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data, number of train steps and device.

        Raises:
            InputError: for data without labels.
        """
        if not task.num_classes:
            raise InputError(
                f"{cls.__module__.rpartition('.')[2]} is conditioned on a class, but the data have "
                "no labels: use labelled data, or gan or dcgan"
            )
        return dataclasses.replace(super().for_task(task), num_classes=task.num_classes)

    def __post_init__(self):
        """Check the fields."""
        super().__post_init__()
        if self.num_classes < 1:
            raise InputError(f"Config.num_classes = {self.num_classes}; it must be at least 1")


def condition_of(cfg: Config, batch: Batch) -> Array | None:
    """Return the labels of a batch: int32 [B]."""
    return labels_of(cfg, batch)


def game(cfg: Config, net: Networks | None = None) -> Game:
    """Return `gan`'s game between networks that are conditioned on y, or the user's own."""
    generator, discriminator = networks.networks(cfg, cfg.num_classes)
    if cfg.projection and len(cfg.shape) == 3 and cfg.channels:
        discriminator = dcgan.Discriminator(cfg.channels, cfg.num_classes)
    conditional = dataclasses.replace(
        gan.game(cfg),
        generator=generator,
        discriminator=discriminator,
        num_classes=cfg.num_classes,
    )
    return with_networks(conditional, net)


def method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: Networks | None = None
) -> Method:
    """Return the method: one step of each player. `tx` replaces Adam; `net`: as in `gan.method`."""
    txs = (tx, tx) if tx else networks.adam(cfg)
    return play(game(cfg, net), *txs, ema_decay=cfg.ema_decay)


def sample(
    cfg: Config,
    variables: PyTree,
    key: Key,
    num: int,
    *,
    condition: ArrayLike | None = None,
    net: Networks | None = None,
) -> Array:
    """Sample g(z | y): float32 [num, *shape], images in [-1, 1].

    Args:
        cfg: of the model.
        variables: trained.
        key: of z.
        num: number of samples.
        condition: labels y [num]; None: each class in turn.
        net: as in `method`.
    """
    return games.sample(game(cfg, net), variables, key, num, condition)
