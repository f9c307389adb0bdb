"""Settings, network, classes and training shared by generative models of continuous time.

Such a model trains a network `net(z, t, y, train)` of noisy data z, a time t and a class y. The
network is conditioned on the class with probability 1 - `condition_dropout`, and sampled with
classifier-free guidance (`gengen.diffusion.samplers.guided`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gengen import rng
from gengen.contract import Task, check_labels, labels_of, refuse_condition
from gengen.diffusion import samplers
from gengen.diffusion.condition import in_turn, one_hot
from gengen.diffusion.defaults import check_network, optimizer, patch_size, task_fields
from gengen.nn.mlp import TimeMLP
from gengen.nn.unet import UNet
from gengen.optim import ScheduledConfig
from gengen.steps import descent, with_ema
from gengen.steps import method as build
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, Shape, check_shape

TIME_UNIT = 1000.0  # factor of the network's t: its sines and cosines are for such numbers
LEVELS = 256  # of a pixel
Function = Callable[[Array, Array], Array]  # of (z [B, ...], t [B]), like z


@dataclass(frozen=True)
class ContinuousConfig(ScheduledConfig):
    """Data, network and training: good settings for minutes on a CPU."""

    shape: Shape = (28, 28, 1)  # of one example: (H, W, C) in [-1, 1], or (D,)
    num_classes: int = 0  # of the data's "label"; 0: not conditioned on a class
    condition_dropout: float = 0.1  # probability of dropping the class in training; 0: no guidance
    guidance: float = 0.0  # w; without effect where there are no classes

    patch: int = 0  # side of the patches folded into channels, in pixels; 0: see `patch_size`
    channels: tuple[int, ...] = (64, 128)  # of each level of the U-Net
    num_blocks: tuple[int, ...] = (1, 2)  # residual blocks of each level
    skips: str = "level"  # or "block", see `ddpm.Config`
    resample: str = "convolution"  # or by a residual "block", with skips = "block"
    time_scale: bool = True  # whether t scales and shifts features, or is added to them
    attention: tuple[int, ...] = ()  # resolutions with self-attention, in pixels
    num_heads: int = 4  # of attention
    num_groups: int = 8  # of group normalisation
    dropout: float = 0.0  # rate
    hidden_dim: int = 128  # units of the MLP's layers, for vectors

    batch_size: int = 64  # examples per step
    learning_rate: float = 2e-3  # of Adam
    b2: float = 0.99  # of Adam: decay of the squared gradient's average, per step
    warmup_steps: int = 50  # of the learning rate, linear from 0
    clip_norm: float = 1.0  # of the gradient, over all parameters
    ema_decay: float = 0.995  # of the parameters' average, per step; warmed up

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data, number of train steps and device."""
        return dataclasses.replace(cls(), **task_fields(task))

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        check_network(self)
        if self.num_classes < 0:
            raise InputError(f"Config.num_classes = {self.num_classes}; it must be at least 0")
        if not 0 <= self.condition_dropout < 1:
            raise InputError(
                f"Config.condition_dropout = {self.condition_dropout}; it must be in [0, 1)"
            )
        if self.guidance and self.num_classes and not self.condition_dropout:
            raise InputError(
                f"Config.guidance = {self.guidance} needs a network that is trained without "
                "classes too: set condition_dropout above 0, or guidance = 0"
            )


class Field(nn.Module):
    """(z [B, *shape], t [B], y [B, num_classes], train) → an array like z.

    Attributes:
        cfg: of the model.
        net: a network called as `net(z, 1000 t, train, y)`, with y = None without classes, such as
            a `gengen.nn.dit.DiT`; None: the Config's U-Net, or an MLP for vectors.
    """

    cfg: Any
    net: nn.Module | None = None

    @nn.compact
    def __call__(self, z: Array, t: Array, y: Array, train: bool = False) -> Array:
        cfg, label = self.cfg, y if self.cfg.num_classes else None
        net = self.net
        if net is None and len(cfg.shape) == 1:
            net = TimeMLP(cfg.shape[0], cfg.hidden_dim)
        elif net is None:
            net = UNet(
                cfg.shape[-1], cfg.channels, cfg.num_blocks, cfg.attention, cfg.num_heads,
                cfg.num_groups, cfg.dropout, cfg.patch or patch_size(cfg.shape), skips=cfg.skips,
                time_scale=cfg.time_scale, resample=cfg.resample,
            )  # fmt: skip
        return net(z, TIME_UNIT * t, train, label)


# --- classes -------------------------------------------------------------------------------------


def condition_of(cfg: Any, batch: Batch) -> Array | None:
    """Return the labels [B] of a batch if `cfg.num_classes` is above 0."""
    return labels_of(cfg, batch)


def check_condition(cfg: Any, condition: ArrayLike | None, num: int) -> Array | None:
    """Return a condition as labels [num], or None."""
    if not cfg.num_classes:
        refuse_condition(condition)
    return None if condition is None else check_labels(condition, num, cfg.num_classes)


def classes_to_sample(cfg: Any, condition: ArrayLike | None, num: int) -> Array:
    """Return the one-hot classes [num, num_classes] of a condition; without one each in turn."""
    return one_hot(cfg, in_turn(cfg, check_condition(cfg, condition, num), num), num)


def output(cfg: Any, variables: PyTree, y: Array, net: nn.Module | None = None) -> Function:
    """Return the trained network as a function of (z, t), with guidance, for one-hot classes y."""
    used = net or Field(cfg)

    def of_class(y: Array) -> Function:
        return lambda z, t: jnp.asarray(used.apply(variables, z, t, y, False))

    if not (cfg.guidance and cfg.num_classes):
        return of_class(y)
    return samplers.guided(of_class(jnp.concatenate([y, jnp.zeros_like(y)])), cfg.guidance)


# --- densities of images -------------------------------------------------------------------------


def dequantised(x: Array, key: Key) -> tuple[Array, float]:
    """Return images [B, H, W, C] in [-1, 1] with uniform noise, and ln of its volume.

    For a density p of such images, ln p + ln volume is a lower bound of the log-probability of
    their 8-bit pixels, on average over the noise. Vectors [B, D] are returned as they are, with 0.
    """
    if x.ndim == 2:
        return x, 0.0
    level = jnp.round((x + 1) * ((LEVELS - 1) / 2))
    volume = float(np.prod(x.shape[1:]) * np.log(2 / LEVELS))
    return (level + rng.uniform(key, x.shape)) * (2 / LEVELS) - 1, volume


# --- training ------------------------------------------------------------------------------------


def train(
    cfg: Any,
    loss: Callable[[Function, Key, Key, Array], Array],
    tx: optax.GradientTransformation | None,
    net: nn.Module,
) -> Method:
    """Train a network by the gradient of a loss, with the Config's optimiser and average.

    Args:
        cfg: of the model.
        loss: (predict, key of times, key of noise, x [B, *shape]) → [], where predict(z, t) is the
            network's output for the classes of the batch.
        tx: an optimiser instead of the Config's Adam.
        net: called as `net(z, t, y, train)`.
    """

    def init_variables(key: Key, batch: Batch) -> PyTree:
        x = check_shape(batch, cfg.shape)[:1]
        return net.init(key, x, jnp.ones(1), jnp.zeros((1, cfg.num_classes)), False)

    def of_batch(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x, labels = check_shape(batch, cfg.shape), labels_of(cfg, batch)
        time_key, noise_key, drop_key, dropout_key = jax.random.split(key, 4)
        y = one_hot(cfg, labels, len(x))
        if cfg.num_classes:
            y = jnp.where(rng.uniform(drop_key, (len(x), 1)) < cfg.condition_dropout, 0, y)

        def predict(z: Array, t: Array) -> Array:
            variables, rngs = {"params": params, **mutables}, {"dropout": dropout_key}
            return jnp.asarray(net.apply(variables, z, t, y, True, rngs=rngs))

        return loss(predict, time_key, noise_key, x), ({}, mutables)

    return build(init_variables, with_ema(descent(of_batch, tx or optimizer(cfg)), cfg.ema_decay))


def spread(t: Array, x: Array) -> Array:
    """Return numbers t [B] in a shape that multiplies x [B, ...]."""
    return t.reshape(-1, *(1,) * (x.ndim - 1))


def normal_quantiles(key: Key, num: int) -> Array:
    """Sample N(0, 1), stratified: [num], one in each of `num` equally likely parts."""
    return jax.scipy.special.ndtri(jnp.clip(rng.stratified(key, num), 1e-6, 1 - 1e-6))
