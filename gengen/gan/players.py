"""Players of a size that a laptop trains, multilayer perceptrons or strided convolutions; Adam.

A class y is told as a one-hot vector: beside z, beside a vector x, as constant planes beside an
image (Mirza & Osindero 2014, 1411.1784).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from gengen.nn.conv import ConvDecoder, ConvEncoder
from gengen.nn.mlp import MLP
from gengen.types import Array, InputError, Shape


@dataclass(frozen=True)
class Config:
    """What all games share that are played by these players."""

    shape: Shape = (28, 28, 1)  # of one example: (H, W, C) in [-1, 1], or (D,)
    latent: int = 100  # dimensions of z ~ N(0, I)
    channels: tuple[int, ...] = (64, 128)  # of D's levels (reversed: g's), for images; (): MLPs
    widths: tuple[int, ...] = (256, 256)  # hidden layers of both players, where they are MLPs

    batch_size: int = 128  # examples a step
    learning_rate: float = 2e-4  # of the generator's Adam
    discriminator_rate: float = 2e-4  # of the discriminator's: another one, another time-scale
    b1: float = 0.5  # of Adam: memory of the gradient, a step
    b2: float = 0.999  # of Adam: memory of the squared gradient, a step
    ema_decay: float = 0.0  # of the averaged generator that is sampled, a step; 0: none

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        if len(self.shape) not in (1, 3) or min(self.shape, default=0) < 1:
            raise InputError(f"Config.shape = {self.shape}, but it is (H, W, C) or (D,)")
        for name in ("latent", "batch_size", "learning_rate", "discriminator_rate"):
            if not getattr(self, name) > 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}, but it is positive")
        for name in ("b1", "b2", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"Config.{name} = {getattr(self, name)}, but it is in [0, 1)")


def adam(cfg: Config) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """The discriminator's optimiser, and the generator's."""
    rates = (cfg.discriminator_rate, cfg.learning_rate)
    first, second = (optax.adam(rate, b1=cfg.b1, b2=cfg.b2) for rate in rates)
    return first, second


def beside(x: Array, y: Array | None, classes: int) -> Array:
    """X [B, ..., C] with y [B] beside it, one-hot: [B, ..., C + classes]; x itself without y."""
    if y is None:
        return x
    hot = jax.nn.one_hot(y, classes).reshape(-1, *(1,) * (x.ndim - 2), classes)
    return jnp.concatenate([x, jnp.broadcast_to(hot, (*x.shape[:-1], classes))], axis=-1)


class Generator(nn.Module):
    """g: z [B, latent] → x [B, *shape], images in [-1, 1].

    Attributes:
        shape: of an example.
        channels: of the levels, the coarsest first; (): an MLP, for images too.
        widths: hidden layers of the MLP.
        classes: of y.
    """

    shape: Shape
    channels: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()
    classes: int = 0

    @nn.compact
    def __call__(self, z: Array, y: Array | None = None, train: bool = False) -> Array:
        z = beside(z, y, self.classes)
        if len(self.shape) == 3 and self.channels:
            return ConvDecoder(self.shape, self.channels)(z, train)
        x = MLP((*self.widths, math.prod(self.shape)))(z).reshape(-1, *self.shape)
        return nn.tanh(x) if len(self.shape) == 3 else x


class Discriminator(nn.Module):
    """D: x [B, *shape] → logits [B]. No normalisation: D is a function of one x.

    Attributes:
        channels: of the levels, the finest first; (): an MLP, for images too.
        widths: hidden layers of the MLP.
        classes: of y.
    """

    channels: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()
    classes: int = 0

    @nn.compact
    def __call__(self, x: Array, y: Array | None = None, train: bool = False) -> Array:
        if x.ndim == 4 and self.channels:
            return ConvEncoder(1, self.channels)(beside(x, y, self.classes))[:, 0]
        return MLP((*self.widths, 1))(beside(x.reshape(len(x), -1), y, self.classes))[:, 0]


def players(cfg: Config, classes: int = 0) -> tuple[Generator, Discriminator]:
    """The two networks of a Config."""
    generator = Generator(cfg.shape, cfg.channels[::-1], cfg.widths, classes)
    return generator, Discriminator(cfg.channels, cfg.widths, classes)
