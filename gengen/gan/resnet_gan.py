r"""ResNet GAN: residual players, R1, and an averaged generator.

Mescheder, Geiger & Nowozin 2018, *Which Training Methods for GANs do actually Converge?*
(1801.04406, §5 and the supplement). Residual blocks without any normalisation,

    block(x) = shortcut(x) + 0.1 · conv(a(conv(a(x)))),   a = LeakyReLU 0.2

doubling the resolution (nearest neighbour) after each level of g, halving it (average pooling)
before each level of D; the loss of `gan`, R1 with γ = 10 alone, the samples those of an average of
g's weights with decay 0.999. The optimiser is RMSProp (decay 0.99) or Adam with β₁ = 0.

Where D is linear, D(x) = w·x, R1 is ½γ‖w‖²: weight decay.
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import optax

from gengen.gan import game as games
from gengen.gan import gan, players
from gengen.gan.game import Game, play
from gengen.gan.regularization import r1
from gengen.nn.unet import upsample
from gengen.types import Array, InputError, Key, Method, PyTree, Shape

RESIDUAL = 0.1  # what a block's convolutions are multiplied by


@dataclass(frozen=True)
class Config(gan.Config):
    """The paper's settings; networks of a size that a laptop trains."""

    gamma: float = 10.0  # of R1
    optimizer: str = "rmsprop"  # or "adam"
    channels: tuple[int, ...] = (32, 64, 64)  # of D's levels, the finest first; between two: ½
    learning_rate: float = 1e-4  # of the generator
    discriminator_rate: float = 1e-4  # of the discriminator
    b1: float = 0.0  # of Adam
    b2: float = 0.99  # of Adam, and RMSProp's decay
    ema_decay: float = 0.999  # of the averaged generator that is sampled, a step; 0: none

    @staticmethod
    def paper() -> Config:
        """For images of 128×128."""
        return Config(
            shape=(128, 128, 3), latent=256, channels=(64, 128, 256, 512, 1024, 1024), batch_size=64
        )

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        super().__post_init__()
        factor = 2 ** (len(self.channels) - 1) if self.channels else 0
        if len(self.shape) != 3 or not factor or self.shape[0] % factor or self.shape[1] % factor:
            raise InputError(
                f"Config.shape = {self.shape}, but it is (H, W, C), halved between the levels of "
                f"Config.channels = {self.channels}: H and W multiples of {factor}"
            )
        if self.optimizer not in ("rmsprop", "adam"):
            raise InputError(
                f'Config.optimizer = {self.optimizer!r}, but it is "rmsprop" or "adam"'
            )
        if not self.gamma >= 0:
            raise InputError(f"Config.gamma = {self.gamma}, but it is at least 0")


def a(x: Array) -> Array:
    """The activation."""
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
    """g: z [B, latent] → images in [-1, 1] [B, *shape]; `channels` the coarsest level's first."""

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
    """D: images [B, *shape] → logits [B]; `channels` the finest level's first."""

    channels: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array, y: Array | None = None, train: bool = False) -> Array:
        x = Block(self.channels[0])(nn.Conv(self.channels[0], (3, 3))(x))
        for features in self.channels[1:]:
            x = Block(features)(nn.avg_pool(x, (2, 2), (2, 2)))
        return nn.Dense(1)(a(x).reshape(len(x), -1))[:, 0]


def game(cfg: Config) -> Game:
    """The paper's networks, `gan`'s losses and R1."""
    return Game(
        generator=Generator(cfg.shape, cfg.channels[::-1]),
        discriminator=Discriminator(cfg.channels),
        shape=cfg.shape,
        latent=cfg.latent,
        losses=gan.LOSSES[cfg.loss],
        penalties=(r1(cfg.gamma),) if cfg.gamma else (),
    )


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """One move each; `tx` in the place of the paper's, for both. Metrics: see `game.play`."""
    rmsprop = tuple(
        optax.rmsprop(rate, decay=cfg.b2) for rate in (cfg.discriminator_rate, cfg.learning_rate)
    )
    own = players.adam(cfg) if cfg.optimizer == "adam" else rmsprop
    discriminator_tx, generator_tx = (tx, tx) if tx else own
    return play(game(cfg), discriminator_tx, generator_tx, ema_decay=cfg.ema_decay)


def sample(cfg: Config, variables: PyTree, key: Key, num: int) -> Array:
    """Draw `num` samples g(z): float32 [num, *shape], images in [-1, 1]."""
    return games.sample(game(cfg), variables, key, num)
