"""Networks that a laptop trains, for all models of the family; their Config and optimisers.

Multilayer perceptrons for vectors, and for images with `channels=()`; otherwise strided
convolutions. A class y is concatenated, one-hot, to z, to a vector x, or as constant planes to an
image (Mirza & Osindero 2014, 1411.1784).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from gengen.contract import Task
from gengen.nn.conv import ConvDecoder, ConvEncoder
from gengen.nn.mlp import MLP
from gengen.optim import ScheduledConfig, learning_rate
from gengen.types import Array, InputError, Shape

DECAY_FLOOR = 0.02  # last learning rate of the decay, as a fraction of the first
MAX_CHANNELS = 512  # of a level that `levels` chooses
RENAMED: dict[str, str | None] = {
    "latent": "latent_dim", "widths": "hidden", "discriminator_rate": "discriminator_learning_rate",
}  # fmt: skip


@dataclass(frozen=True)
class Config(ScheduledConfig):
    """The fields of all games between these networks: good settings for minutes on a CPU."""

    shape: Shape = (28, 28, 1)  # of one example: (H, W, C) in [-1, 1], or (D,)
    latent_dim: int = 64  # dimensions of z ~ N(0, I)
    # Channels of each level of D, the finest first; of g in reverse order. A level halves the
    # resolution. (): perceptrons, for images too.
    channels: tuple[int, ...] = (32, 64)
    hidden: tuple[int, ...] = (256, 256)  # sizes of the hidden layers of perceptrons

    batch_size: int = 64  # examples per step
    learning_rate: float = 5e-4  # of the generator's Adam
    discriminator_learning_rate: float = 5e-4  # of the discriminator's Adam
    b1: float = 0.5  # of Adam: decay of the gradient's average, per step
    b2: float = 0.999  # of Adam: decay of the squared gradient's average, per step
    decay_floor: float = DECAY_FLOOR  # last learning rates of the decay, relative to the first ones
    ema_decay: float = 0.995  # of the averaged generator that is sampled, per step; 0: none

    RENAMED: ClassVar[dict[str, str | None]] = RENAMED

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data, number of train steps and device."""
        return dataclasses.replace(cls(), **task_fields(task))

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and what it must be.
        """
        check_data_shape(self.shape)
        for name in ("latent_dim", "batch_size", "learning_rate", "discriminator_learning_rate"):
            require_positive(name, getattr(self, name))
        if self.decay_steps < 0:
            raise InputError(f"Config.decay_steps = {self.decay_steps}; it must be at least 0")
        for name in ("b1", "b2", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be in [0, 1)")


def check_data_shape(shape: Shape) -> None:
    """Check `Config.shape`: of an image or a vector."""
    if len(shape) not in (1, 3) or min(shape, default=0) < 1:
        raise InputError(f"Config.shape = {shape}; it must be (H, W, C) or (D,)")


def require_positive(name: str, value: float) -> None:
    """Check that a field of a Config is above 0."""
    if not value > 0:
        raise InputError(f"Config.{name} = {value}; it must be positive")


# --- defaults ------------------------------------------------------------------------------------


def task_fields(task: Task) -> dict[str, Any]:
    """Return the fields of a Config that depend on the data, the number of steps and the device.

    Images: small networks and Adam at a constant rate. Vectors: the settings that find the modes of
    `ring8` and `grid25` (`experiments/mode_collapse.py`).
    """
    fields = network_fields(task)
    if len(task.shape) == 3:
        return fields | {"batch_size": 128 if task.accelerator else 64}
    return fields | {
        "batch_size": 256, "learning_rate": 1e-3, "discriminator_learning_rate": 1e-3, "b2": 0.99,
        "decay_steps": task.steps,
    }  # fmt: skip


def network_fields(task: Task) -> dict[str, Any]:
    """Return shape, latent_dim, channels and hidden for given data and device."""
    fields: dict[str, Any] = {"shape": task.shape}
    if len(task.shape) == 1:
        return fields | {"latent_dim": min(64, max(2, task.shape[0])), "hidden": (128, 128, 128)}
    fields["channels"] = levels(task.shape, 64 if task.accelerator else 32)
    return fields | ({"latent_dim": 100} if task.accelerator else {})


def levels(shape: Shape, first: int) -> tuple[int, ...]:
    """Return the channels of as many levels as images of `shape` can be halved.

    Each level halves the sides, at most down to 4 pixels; two levels may go down to 2 pixels.

    Args:
        shape: (H, W, C).
        first: channels of the finest level; each further one has twice as many.

    Returns:
        (): if a side is odd.
    """
    sides, num = shape[:2], 0
    while all(n % 2 ** (num + 1) == 0 for n in sides):
        left = min(sides) // 2 ** (num + 1)
        if left < (2 if num < 2 else 4):
            break
        num += 1
    return tuple(min(first * 2**i, MAX_CHANNELS) for i in range(num))


# --- optimisers ----------------------------------------------------------------------------------


def adam(
    cfg: Any, n_critic: int = 1
) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """Return the optimisers of the discriminator, for n_critic steps each, and the generator."""
    discriminator = learning_rate(cfg, cfg.discriminator_learning_rate, n_critic)
    generator = learning_rate(cfg)
    first, second = (optax.adam(rate, b1=cfg.b1, b2=cfg.b2) for rate in (discriminator, generator))
    return first, second


# --- networks ------------------------------------------------------------------------------------


def concatenate_class(x: Array, y: Array | None, num_classes: int) -> Array:
    """Concatenate y [B], one-hot, to x [B, ..., C]: [B, ..., C + num_classes]; x if y is None."""
    if y is None:
        return x
    hot = jax.nn.one_hot(y, num_classes).reshape(-1, *(1,) * (x.ndim - 2), num_classes)
    return jnp.concatenate([x, jnp.broadcast_to(hot, (*x.shape[:-1], num_classes))], axis=-1)


class Generator(nn.Module):
    """g: z [B, latent_dim] → x [B, *shape], images in [-1, 1].

    Attributes:
        shape: of an example.
        channels: of the levels, the coarsest first; (): an MLP, for images too.
        hidden: sizes of the MLP's hidden layers.
        num_classes: of y.
    """

    shape: Shape
    channels: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()
    num_classes: int = 0

    @nn.compact
    def __call__(self, z: Array, y: Array | None = None, train: bool = False) -> Array:
        z = concatenate_class(z, y, self.num_classes)
        if len(self.shape) == 3 and self.channels:
            return ConvDecoder(self.shape, self.channels)(z, train)
        x = MLP((*self.hidden, math.prod(self.shape)))(z).reshape(-1, *self.shape)
        return nn.tanh(x) if len(self.shape) == 3 else x


class Discriminator(nn.Module):
    """D: x [B, *shape] → logits [B]. Without normalisation: D is a function of one x.

    Attributes:
        channels: of the levels, the finest first; (): an MLP, for images too.
        hidden: sizes of the MLP's hidden layers.
        num_classes: of y.
    """

    channels: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()
    num_classes: int = 0

    @nn.compact
    def __call__(self, x: Array, y: Array | None = None, train: bool = False) -> Array:
        if x.ndim == 4 and self.channels:
            x = concatenate_class(x, y, self.num_classes)
            return ConvEncoder(1, self.channels)(x)[:, 0]
        x = concatenate_class(x.reshape(len(x), -1), y, self.num_classes)
        return MLP((*self.hidden, 1))(x)[:, 0]


def networks(cfg: Any, num_classes: int = 0) -> tuple[Generator, Discriminator]:
    """Return the generator and the discriminator of a Config."""
    generator = Generator(cfg.shape, cfg.channels[::-1], cfg.hidden, num_classes)
    return generator, Discriminator(cfg.channels, cfg.hidden, num_classes)
