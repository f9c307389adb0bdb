r"""DCGAN: the deep convolutional GAN.

Radford, Metz & Chintala 2016, *Unsupervised Representation Learning with Deep Convolutional
Generative Adversarial Networks* (1511.06434). The guidelines: strided convolutions in D and
fractionally strided ones in g in the place of pooling; no dense hidden layer; batch norm everywhere
but at g's output and D's input; LeakyReLU 0.2 in D, ReLU in g, tanh at its end; weights drawn from
N(0, 0.02²); Adam with 2e-4 and β₁ = 0.5. The paper's g, for 64×64 images:

    z [100] → 4×4×1024 → 8×8×512 → 16×16×256 → 32×32×128 → 64×64×3

and D the same way back. Batch norm sees real and generated examples apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
import optax

from gengen.gan import game as games
from gengen.gan import gan, players
from gengen.gan.game import Game, play
from gengen.nn.conv import ConvTranspose
from gengen.nn.norm import batch_norm
from gengen.types import Array, InputError, Key, Method, PyTree, Shape

KERNEL = (4, 4)  # of all convolutions, as in the authors' code
INIT = nn.initializers.normal(0.02)
ACTIVATIONS = {"relu": nn.relu, "leaky_relu": lambda x: nn.leaky_relu(x, 0.2)}


@dataclass(frozen=True)
class Config(gan.Config):
    """The paper's settings; two levels, for images of 28×28."""

    activation: str = "relu"  # of g's hidden layers, or "leaky_relu"

    @staticmethod
    def paper() -> Config:
        """The paper's networks, for images of 64×64."""
        return Config(shape=(64, 64, 3), channels=(128, 256, 512, 1024))

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        super().__post_init__()
        factor = 2 ** len(self.channels)
        if len(self.shape) != 3 or self.shape[0] % factor or self.shape[1] % factor:
            raise InputError(
                f"Config.shape = {self.shape}, but it is (H, W, C) with H and W multiples of "
                f"{factor}, or Config.channels shorter"
            )
        if not self.channels:
            raise InputError("Config.channels is empty, but images need at least one level")
        if self.activation not in ACTIVATIONS:
            raise InputError(f"Config.activation = {self.activation!r}, not of {[*ACTIVATIONS]}")


class Generator(nn.Module):
    """g: z [B, latent] → images in [-1, 1] [B, *shape]; `channels` the coarsest level's first."""

    shape: Shape
    channels: tuple[int, ...]
    activation: str = "relu"

    @nn.compact
    def __call__(self, z: Array, y: Array | None = None, train: bool = False) -> Array:
        (height, width, out), factor = self.shape, 2 ** len(self.channels)
        act, coarse = ACTIVATIONS[self.activation], (height // factor, width // factor)
        # z, an image of one pixel, by one fractionally strided convolution.
        x = ConvTranspose(
            self.channels[0], coarse, padding="VALID", use_bias=False, kernel_init=INIT
        )(z[:, None, None, :])
        for features in self.channels[1:]:
            x = act(batch_norm(train)(x))
            x = ConvTranspose(features, KERNEL, (2, 2), use_bias=False, kernel_init=INIT)(x)
        x = act(batch_norm(train)(x))
        return nn.tanh(ConvTranspose(out, KERNEL, (2, 2), kernel_init=INIT)(x))


class Discriminator(nn.Module):
    """D: images [B, *shape] → logits [B]; told y [B], the projection discriminator.

    Miyato & Koyama 2018, *cGANs with Projection Discriminator* (1802.05637): of features φ(x),
    D(x|y) = v·φ(x) + v_y·φ(x), a filter for what is an image, and one for what is of class y.

    Attributes:
        channels: of the levels, the finest first.
        classes: of y.
    """

    channels: tuple[int, ...]
    classes: int = 0

    @nn.compact
    def __call__(self, x: Array, y: Array | None = None, train: bool = False) -> Array:
        x = nn.leaky_relu(nn.Conv(self.channels[0], KERNEL, (2, 2), kernel_init=INIT)(x), 0.2)
        for features in self.channels[1:]:
            x = nn.Conv(features, KERNEL, (2, 2), use_bias=False, kernel_init=INIT)(x)
            x = nn.leaky_relu(batch_norm(train)(x), 0.2)
        # Filters as large as what is left: the last level, flattened, into single outputs.
        last = nn.Conv(1 + self.classes, x.shape[1:3], padding="VALID", kernel_init=INIT)
        v, *v_y = jnp.moveaxis(last(x)[:, 0, 0], -1, 0)
        return v if y is None else v + jnp.choose(y, v_y, mode="clip")


def game(cfg: Config) -> Game:
    """`gan`'s losses, the paper's networks."""
    return Game(
        generator=Generator(cfg.shape, cfg.channels[::-1], cfg.activation),
        discriminator=Discriminator(cfg.channels),
        shape=cfg.shape,
        latent=cfg.latent,
        losses=gan.LOSSES[cfg.loss],
    )


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """One move each; `tx` in the place of Adam, for both. Metrics: see `gengen.gan.game.play`."""
    return play(game(cfg), *((tx, tx) if tx else players.adam(cfg)), ema_decay=cfg.ema_decay)


def sample(cfg: Config, variables: PyTree, key: Key, num: int) -> Array:
    """Draw `num` samples g(z): float32 [num, *shape], images in [-1, 1]."""
    return games.sample(game(cfg), variables, key, num)
