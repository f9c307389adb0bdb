r"""Binary data in any order of the dimensions: what FVSBN, NADE and MADE share.

    p(x) = Π_i p(x_i | x_1, ..., x_{i-1}),    i along an order of the D dimensions

Images are binarised to ±1 by `gengen.distributions.binarise`, so that nats per binary image are
comparable across families. Networks work on sequences [B, D] in the model's order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gengen.autoregressive import conditionals
from gengen.autoregressive.conditionals import (
    BINARISE,
    check_observation,
    check_positive,
    observed,
)
from gengen.contract import Task, refuse_condition, require_num
from gengen.optim import OptimizerConfig
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, Shape, check_shape
from gengen.xla import jit


@dataclass(frozen=True)
class Config(OptimizerConfig):
    """What every model of binary data has."""

    shape: Shape = (28, 28, 1)  # of one example: (H, W, C) in [-1, 1], or (D,)
    binarise: str = "dynamic"  # or "threshold": see `gengen.distributions.binarise`
    order_seed: int = 0  # of the order of the dimensions. 0: row by row; else a random permutation

    batch_size: int = 100  # examples per step
    learning_rate: float = 1e-3  # of the optimiser
    ema_decay: float = 0.999  # of the parameters' average, per step; warmed up

    RENAMED: ClassVar[dict[str, str | None]] = {"order": "order_seed"}

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data.

        Each channel of a colour image is binarised on its own. Vectors are taken by their signs.
        """
        binarise = "threshold" if len(task.shape) == 1 else "dynamic"
        return dataclasses.replace(cls(), shape=task.shape, binarise=binarise)

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        check_positive(self, "batch_size", "learning_rate")
        if len(self.shape) not in (1, 3) or min(self.shape, default=0) < 1:
            raise InputError(f"Config.shape = {self.shape}; it must be (H, W, C) or (D,)")
        if self.binarise not in BINARISE:
            raise InputError(f"Config.binarise = {self.binarise!r}; it must be one of {BINARISE}")
        if self.order_seed < 0:
            raise InputError(f"Config.order_seed = {self.order_seed}; it must be at least 0")


def dims(cfg: Config) -> int:
    """Return D, the number of dimensions."""
    return int(np.prod(cfg.shape))


@cache
def order(cfg: Config) -> np.ndarray:
    """Return the row-by-row index of the i-th dimension of the order: int [D]."""
    if cfg.order_seed == 0:
        return np.arange(dims(cfg))
    return np.random.default_rng(cfg.order_seed).permutation(dims(cfg))


# --- images and sequences ------------------------------------------------------------------------


def sequence(cfg: Config, x: Array) -> Array:
    """Return x [B, *shape] as sequences [B, D] in the model's order."""
    return x.reshape(len(x), -1)[:, order(cfg)]


def example(cfg: Config, s: Array) -> Array:
    """Invert `sequence`: [B, D] → [B, *shape]."""
    return s[:, np.argsort(order(cfg))].reshape(len(s), *cfg.shape)


def bit(x: Array) -> Array:
    """Return 0 or 1 for ±1: the papers' x."""
    return (x + 1) / 2


def sample_bit(u: Array, logit: Array, x: Array, known: Array) -> Array:
    """Return x where known, else ±1, +1 with probability σ(logit), by uniform u: [B]."""
    return jnp.where(known, x, jnp.where(u < jax.nn.sigmoid(logit), 1.0, -1.0))


# --- functions of a network ----------------------------------------------------------------------
#
# A network of sequences has two methods: `log_p(x)`, sequences ±1 [B, D] → ln p [B] in nats, and
# `sample(key, x, known)`, → sequences ±1 [B, D] that are x where `known` [B, D] is true.


def log_prob(
    cfg: Config,
    net: nn.Module,
    variables: PyTree,
    x: ArrayLike,
    key: Key | None,
    condition: PyTree = None,
) -> Array:
    """Return ln p of the binary images of x [B, *shape]: [B], in nats.

    Args:
        cfg: of the model.
        net: of sequences.
        variables: of the trained model.
        x: binarised with `cfg.binarise`.
        key: of the binarisation; None: a fixed key.
        condition: None, as these models are unconditional.
    """
    refuse_condition(condition)
    key = jax.random.key(0) if key is None else key
    x = sequence(cfg, observed(cfg.binarise, check_shape({"x": x}, cfg.shape), key))
    return _apply(net, "log_p", variables, x)


def sample(
    cfg: Config,
    net: nn.Module,
    variables: PyTree,
    key: Key,
    num: int,
    condition: PyTree = None,
    observation: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Array:
    """Return `num` binary images ±1, float32 [num, *shape], equal to `observation` where masked."""
    refuse_condition(condition)
    require_num(num)
    x, known = check_observation(cfg.shape, num, observation, mask, order(cfg))
    see_key, key = jax.random.split(key)
    x = sequence(cfg, observed(cfg.binarise, x.astype(jnp.float32), see_key))
    return example(cfg, _apply(net, "sample", variables, key, x, sequence(cfg, known)))


@jit(0, 1, often=False)
def _apply(net: nn.Module, name: str, variables: PyTree, *args: Array) -> Array:
    return jnp.asarray(net.apply(variables, *args, method=name))


def maximum_likelihood(
    cfg: Config,
    net: nn.Module,
    tx: optax.GradientTransformation | None,
    extra: Callable[[Key], tuple[Any, ...]] = lambda key: (),
) -> Method:
    """Train by maximum likelihood. Metric: `loss`, nats per example.

    Args:
        cfg: of the model.
        net: with a `log_p`.
        tx: the optimiser; None: the Config's.
        extra: key → further arguments of `log_p` in a train step.
    """

    def init_variables(key: Key, batch: Batch) -> PyTree:
        x = sequence(cfg, check_shape(batch, cfg.shape)[:1])
        return net.init(key, x, *extra(key), method="log_p")

    def log_p(variables: PyTree, key: Key, batch: Batch) -> Array:
        see_key, key = jax.random.split(key)
        x = sequence(cfg, observed(cfg.binarise, check_shape(batch, cfg.shape), see_key))
        return jnp.asarray(net.apply(variables, x, *extra(key), method="log_p"))

    return conditionals.maximum_likelihood(cfg, init_variables, log_p, tx)
