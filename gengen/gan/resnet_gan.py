r"""ResNet GAN: residual networks, R1, and an averaged generator.

Mescheder, Geiger & Nowozin 2018, *Which Training Methods for GANs do actually Converge?*
(1801.04406, §5 and the supplement). Residual blocks without any normalisation,

    block(x) = shortcut(x) + 0.1 · conv(a(conv(a(x)))),   a = LeakyReLU 0.2

doubling the resolution (nearest neighbour) after each level of g, halving it (average pooling)
before each level of D. The loss is that of `gan` with R1, γ = 10; samples come from an average of
g's weights with decay 0.999; the optimiser is RMSProp (decay 0.99) or Adam with β₁ = 0.

Where D is linear, D(x) = w·x, R1 is ½γ‖w‖²: weight decay.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

import flax.linen as nn
import optax
from jax.typing import ArrayLike

from gengen.contract import Task
from gengen.contract import unconditional as condition_of
from gengen.gan import game as games
from gengen.gan import gan, networks
from gengen.gan.game import Game, Networks, play, with_networks
from gengen.gan.regularization import r1
from gengen.nn.unet import upsample
from gengen.optim import learning_rate
from gengen.types import Array, InputError, Key, Method, PyTree, Shape

__all__ = [
    "Block", "Config", "Discriminator", "Generator", "condition_of", "game", "method", "sample",
]  # fmt: skip

RESIDUAL = 0.1  # factor of a block's convolutions


@dataclass(frozen=True)
class Config(gan.Config):
    """The paper's game with a higher learning rate, between small networks."""

    r1: float = 10.0  # γ of R1
    optimizer: str = "rmsprop"  # or "adam"
    # Channels of D's levels, the finest first; the resolution is halved between two levels.
    channels: tuple[int, ...] = (16, 32, 32)
    batch_size: int = 32  # examples per step
    b1: float = 0.0  # of Adam: decay of the gradient's average, per step
    b2: float = 0.99  # decay of the squared gradient's average, per step: of Adam and RMSProp

    RENAMED: ClassVar[dict[str, str | None]] = {"gamma": "r1"}

    @classmethod
    def paper(cls) -> Self:
        """Return the paper's training on images of 128×128.

        The paper's networks differ in details of the blocks' channels.
        """
        return cls(
            shape=(128, 128, 3), latent_dim=256, channels=(64, 128, 256, 512, 1024, 1024),
            batch_size=64, learning_rate=1e-4, discriminator_learning_rate=1e-4, b1=0.0, b2=0.99,
            decay_steps=0, ema_decay=0.999, loss="nonsaturating", r1=10.0, optimizer="rmsprop",
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data and device.

        Raises:
            InputError: for vectors.
        """
        if len(task.shape) != 3:
            raise InputError(
                f"examples of shape {task.shape} are no images: use regularization, the same "
                "penalty on networks for vectors"
            )
        big, halvings = task.accelerator, len(networks.levels(task.shape, 1))
        if max(task.shape[:2]) <= 8:  # compiles sooner
            halvings = min(halvings, 1)
        channels = ((32, 64, 128, 256) if big else (16, 32, 32, 64))[: halvings + 1]
        sizes = {"batch_size": 64, "latent_dim": 128} if big else {}
        return dataclasses.replace(cls(), shape=task.shape, channels=channels, **sizes)

    def __post_init__(self):
        """Check the fields."""
        super().__post_init__()
        factor = 2 ** (len(self.channels) - 1) if self.channels else 0
        if len(self.shape) != 3 or not factor or self.shape[0] % factor or self.shape[1] % factor:
            raise InputError(
                f"Config.shape = {self.shape}; it must be (H, W, C), and H and W multiples of "
                f"{factor}, as they are halved between the levels of Config.channels = "
                f"{self.channels}"
            )
        if self.optimizer not in ("rmsprop", "adam"):
            raise InputError(
                f'Config.optimizer = {self.optimizer!r}; it must be "rmsprop" or "adam"'
            )
        if not self.r1 >= 0:
            raise InputError(f"Config.r1 = {self.r1}; it must be at least 0")


def a(x: Array) -> Array:
    """Return the activation, LeakyReLU 0.2."""
    return nn.leaky_relu(x, 0.2)


class Block(nn.Module):
    """A residual block: [B, H, W, C] → [B, H, W, out]."""

    out: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        hidden = min(x.shape[-1], self.out)
        h = nn.Conv(hidden, (3, 3))(a(x))
        h = nn.Conv(self.out, (3, 3))(a(h))
        if x.shape[-1] != self.out:
            x = nn.Conv(self.out, (1, 1), use_bias=False)(x)
        return x + RESIDUAL * h


class Generator(nn.Module):
    """g: z [B, latent_dim] → images [B, *shape] in [-1, 1]; `channels` starts at the coarsest."""

    shape: Shape
    channels: tuple[int, ...]

    @nn.compact
    def __call__(self, z: Array, y: Array | None = None, train: bool = False) -> Array:
        (height, width, out), factor = self.shape, 2 ** (len(self.channels) - 1)
        height, width = height // factor, width // factor
        x = nn.Dense(height * width * self.channels[0])(z)
        x = Block(self.channels[0])(x.reshape(len(z), height, width, -1))
        for features in self.channels[1:]:
            x = Block(features)(upsample(x))
        return nn.tanh(nn.Conv(out, (3, 3))(a(x)))


class Discriminator(nn.Module):
    """D: images [B, *shape] → logits [B]; `channels` starts at the finest level."""

    channels: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array, y: Array | None = None, train: bool = False) -> Array:
        x = Block(self.channels[0])(nn.Conv(self.channels[0], (3, 3))(x))
        for features in self.channels[1:]:
            x = Block(features)(nn.avg_pool(x, (2, 2), (2, 2)))
        return nn.Dense(1)(a(x).reshape(len(x), -1))[:, 0]


def game(cfg: Config, net: Networks | None = None) -> Game:
    """Return the paper's networks, or the user's own, with `gan`'s losses and R1."""
    both = Game(
        generator=Generator(cfg.shape, cfg.channels[::-1]),
        discriminator=Discriminator(cfg.channels),
        shape=cfg.shape,
        latent_dim=cfg.latent_dim,
        losses=gan.LOSSES[cfg.loss],
        penalties=(r1(cfg.r1),) if cfg.r1 else (),
    )
    return with_networks(both, net)


def method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: Networks | None = None
) -> Method:
    """Return the method: one step of each player. `tx` replaces both optimisers.

    Metrics: see `gengen.gan.game.play`; `net`: as in `gan.method`.
    """
    rates = (cfg.discriminator_learning_rate, cfg.learning_rate)
    rmsprop = tuple(optax.rmsprop(learning_rate(cfg, rate), decay=cfg.b2) for rate in rates)
    own = networks.adam(cfg) if cfg.optimizer == "adam" else rmsprop
    discriminator_tx, generator_tx = (tx, tx) if tx else own
    return play(game(cfg, net), discriminator_tx, generator_tx, ema_decay=cfg.ema_decay)


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
