r"""DCGAN: the deep convolutional GAN.

Radford, Metz & Chintala 2016, *Unsupervised Representation Learning with Deep Convolutional
Generative Adversarial Networks* (1511.06434). The guidelines: strided convolutions in D and
fractionally strided ones in g instead of pooling; no dense hidden layer; batch norm everywhere
except at g's output and D's input; LeakyReLU 0.2 in D, ReLU in g with tanh at its end; weights
initialised from N(0, 0.02²); Adam with 2e-4 and β₁ = 0.5. The paper's g, for 64×64 images:

    z [100] → 4×4×1024 → 8×8×512 → 16×16×256 → 32×32×128 → 64×64×3

and D the same way back. Batch norm normalises real and generated examples separately.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import flax.linen as nn
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen.contract import Task
from gengen.contract import unconditional as condition_of
from gengen.gan import game as games
from gengen.gan import gan, networks
from gengen.gan.game import Game, Networks, play, with_networks
from gengen.nn.conv import ConvTranspose
from gengen.nn.norm import batch_norm
from gengen.types import Array, InputError, Key, Method, PyTree, Shape

__all__ = ["Config", "Discriminator", "Generator", "condition_of", "game", "method", "sample"]

KERNEL = (4, 4)  # of all convolutions, as in the authors' code
INIT = nn.initializers.normal(0.02)
ACTIVATIONS = {"relu": nn.relu, "leaky_relu": lambda x: nn.leaky_relu(x, 0.2)}


@dataclass(frozen=True)
class Config(gan.Config):
    """The paper's networks with two levels, for images of 28×28."""

    activation: str = "relu"  # of g's hidden layers: "relu" or "leaky_relu"

    @classmethod
    def paper(cls) -> Self:
        """Return the paper's networks and training, for images of 64×64."""
        return cls(
            shape=(64, 64, 3), latent_dim=100, channels=(128, 256, 512, 1024), batch_size=128,
            learning_rate=2e-4, discriminator_learning_rate=2e-4, b1=0.5, b2=0.999, decay_steps=0,
            ema_decay=0.0, loss="nonsaturating", activation="relu",
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data, number of train steps and device."""
        require_even_images(task.shape)
        return super().for_task(task)

    def __post_init__(self):
        """Check the fields."""
        super().__post_init__()
        factor = 2 ** len(self.channels)
        if len(self.shape) != 3 or self.shape[0] % factor or self.shape[1] % factor:
            raise InputError(
                f"Config.shape = {self.shape}; it must be (H, W, C) with H and W multiples of "
                f"{factor}, or Config.channels shorter"
            )
        if not self.channels:
            raise InputError("Config.channels is empty; it must have at least one level")
        if self.activation not in ACTIVATIONS:
            raise InputError(
                f"Config.activation = {self.activation!r}; it must be one of {[*ACTIVATIONS]}"
            )


def require_even_images(shape: Shape) -> None:
    """Check that examples are images whose sides can be halved.

    Raises:
        InputError: saying which model takes such data.
    """
    if len(shape) != 3:
        raise InputError(f"examples of shape {shape} are no images: use gan, which takes vectors")
    if shape[0] % 2 or shape[1] % 2 or min(shape[:2]) < 4:
        raise InputError(
            f"{shape[0]}×{shape[1]} images cannot be halved: use images with even sides of at "
            "least 4 pixels, or gan, which takes any size"
        )


class Generator(nn.Module):
    """g: z [B, latent_dim] → images [B, *shape] in [-1, 1].

    Attributes:
        shape: of an image.
        channels: of the levels, the coarsest first.
        activation: of the hidden layers.
    """

    shape: Shape
    channels: tuple[int, ...]
    activation: str = "relu"

    @nn.compact
    def __call__(self, z: Array, y: Array | None = None, train: bool = False) -> Array:
        (height, width, out), factor = self.shape, 2 ** len(self.channels)
        act, coarse = ACTIVATIONS[self.activation], (height // factor, width // factor)
        # z is an image of one pixel for the first fractionally strided convolution.
        x = ConvTranspose(
            self.channels[0], coarse, padding="VALID", use_bias=False, kernel_init=INIT
        )(z[:, None, None, :])
        for features in self.channels[1:]:
            x = act(batch_norm(train)(x))
            x = ConvTranspose(features, KERNEL, (2, 2), use_bias=False, kernel_init=INIT)(x)
        x = act(batch_norm(train)(x))
        return nn.tanh(ConvTranspose(out, KERNEL, (2, 2), kernel_init=INIT)(x))


class Discriminator(nn.Module):
    """D: images [B, *shape] → logits [B]; given y [B], the projection discriminator.

    Miyato & Koyama 2018, *cGANs with Projection Discriminator* (1802.05637): with features φ(x),
    D(x|y) = v·φ(x) + v_y·φ(x), one filter for all images and one for those of class y.

    Attributes:
        channels: of the levels, the finest first.
        num_classes: of y.
    """

    channels: tuple[int, ...]
    num_classes: int = 0

    @nn.compact
    def __call__(self, x: Array, y: Array | None = None, train: bool = False) -> Array:
        x = nn.leaky_relu(nn.Conv(self.channels[0], KERNEL, (2, 2), kernel_init=INIT)(x), 0.2)
        for features in self.channels[1:]:
            x = nn.Conv(features, KERNEL, (2, 2), use_bias=False, kernel_init=INIT)(x)
            x = nn.leaky_relu(batch_norm(train)(x), 0.2)
        # Filters as large as the last level: single outputs.
        last = nn.Conv(1 + self.num_classes, x.shape[1:3], padding="VALID", kernel_init=INIT)
        v, *v_y = jnp.moveaxis(last(x)[:, 0, 0], -1, 0)
        return v if y is None else v + jnp.choose(y, v_y, mode="clip")


def networks_of(cfg: Any) -> Networks:
    """Return a Config's networks: the paper's, with batch norm, or the family's small ones."""
    if not cfg.batch_norm:
        return networks.networks(cfg)
    return Generator(cfg.shape, cfg.channels[::-1]), Discriminator(cfg.channels)


def check_batch_norm(cfg: Any) -> None:
    """Check that the shape and the channels fit the paper's networks, if they are used."""
    if cfg.batch_norm:
        Config(shape=cfg.shape, channels=cfg.channels)


def game(cfg: Config, net: Networks | None = None) -> Game:
    """Return the paper's networks, or the user's own, with `gan`'s losses."""
    both = Game(
        generator=Generator(cfg.shape, cfg.channels[::-1], cfg.activation),
        discriminator=Discriminator(cfg.channels),
        shape=cfg.shape,
        latent_dim=cfg.latent_dim,
        losses=gan.LOSSES[cfg.loss],
    )
    return with_networks(both, net)


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
    """Sample g(z): float32 [num, *shape], images in [-1, 1]."""
    return games.sample(game(cfg, net), variables, key, num, condition)
