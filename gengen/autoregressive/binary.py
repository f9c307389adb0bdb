r"""What the models of binary images have in common: the order of the dimensions, and what is given.

    p(x) = Π_i p(x_i | x_1, ..., x_{i-1}),    i along an order of the D dimensions

Images are made binary, ±1, as `gengen.vae.vae` does it, so that nats per binary image can be
compared between the families. Inside, x is a sequence [B, D] in the model's order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gengen.autoregressive import conditionals
from gengen.autoregressive.conditionals import BINARISE, check_given, check_positive, observed
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, Shape, check_shape


@dataclass(frozen=True)
class Config:
    """What every model of binary images is told."""

    shape: Shape = (28, 28, 1)  # of one example: (H, W, C) in [-1, 1], or (D,)
    binarise: str = "dynamic"  # or "threshold", see gengen.vae.vae
    order: int = 0  # of the dimensions. 0: row by row; else: at random, by this seed

    batch_size: int = 100  # examples a step
    learning_rate: float = 1e-3  # of Adam
    ema_decay: float = 0.999  # a step; warmed up

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        check_positive(self, "batch_size", "learning_rate")
        if len(self.shape) not in (1, 3) or min(self.shape, default=0) < 1:
            raise InputError(f"Config.shape = {self.shape}, but it is (H, W, C) or (D,)")
        if self.binarise not in BINARISE:
            raise InputError(f"Config.binarise = {self.binarise!r}, not one of {BINARISE}")
        if self.order < 0:
            raise InputError(f"Config.order = {self.order}, but it is 0, or a seed above it")


def dims(cfg: Config) -> int:
    """D, the number of dimensions."""
    return int(np.prod(cfg.shape))


@cache
def order(cfg: Config) -> np.ndarray:
    """Which dimension, counted row by row, is the i-th: int [D]."""
    if cfg.order == 0:
        return np.arange(dims(cfg))
    return np.random.default_rng(cfg.order).permutation(dims(cfg))


# --- images and sequences ------------------------------------------------------------------------


def sequence(cfg: Config, x: Array) -> Array:
    """[B, *shape] → [B, D] in the model's order."""
    return x.reshape(len(x), -1)[:, order(cfg)]


def example(cfg: Config, s: Array) -> Array:
    """The inverse of `sequence`: [B, D] → [B, *shape]."""
    return s[:, np.argsort(order(cfg))].reshape(len(s), *cfg.shape)


def bit(x: Array) -> Array:
    """±1 → 0, 1: what the papers' weights are multiplied by."""
    return (x + 1) / 2


def draw(u: Array, logit: Array, x: Array, known: Array) -> Array:
    """±1: x where known, else +1 with probability σ(logit), by uniform u; all [B]."""
    return jnp.where(known, x, jnp.where(u < jax.nn.sigmoid(logit), 1.0, -1.0))


# --- what a network of sequences can do ----------------------------------------------------------
#
# Such a network has `log_p(x)`: sequences ±1 [B, D] → ln p [B] in nats, and `draw(key, x, known)`:
# sequences ±1 [B, D] that are x where known.


def log_prob(
    cfg: Config, net: nn.Module, variables: PyTree, x: ArrayLike, key: Key | None
) -> Array:
    """Ln p of the binary images of x [B, *shape]: [B], in nats; a fixed draw if there is no key."""
    key = jax.random.key(0) if key is None else key
    x = sequence(cfg, observed(cfg.binarise, check_shape({"x": x}, cfg.shape), key))
    return _apply(net, "log_p", variables, x)


def sample(
    cfg: Config,
    net: nn.Module,
    variables: PyTree,
    key: Key,
    num: int,
    given: ArrayLike | None,
    mask: ArrayLike | None,
) -> Array:
    """Draw `num` binary images ±1, float32 [num, *shape], as `given` where `mask` is true."""
    x, known = check_given(cfg.shape, num, given, mask, order(cfg))
    see_key, key = jax.random.split(key)
    x = sequence(cfg, observed(cfg.binarise, x.astype(jnp.float32), see_key))
    return example(cfg, _apply(net, "draw", variables, key, x, sequence(cfg, known)))


@jax.jit(static_argnums=(0, 1))
def _apply(net: nn.Module, name: str, variables: PyTree, *args: Array) -> Array:
    return jnp.asarray(net.apply(variables, *args, method=name))


def maximum_likelihood(
    cfg: Config,
    net: nn.Module,
    tx: optax.GradientTransformation | None,
    extra: Callable[[Key], tuple[Any, ...]] = lambda key: (),
) -> Method:
    """Climb the mean of ln p; Adam if `tx` is None. Metric: `loss`, nats per example.

    Args:
        cfg: of the model.
        net: with a `log_p`.
        tx: the optimiser.
        extra: key → what a step gives `log_p` besides x.
    """

    def init_variables(key: Key, batch: Batch) -> PyTree:
        x = sequence(cfg, check_shape(batch, cfg.shape)[:1])
        return net.init(key, x, *extra(key), method="log_p")

    def log_p(variables: PyTree, key: Key, batch: Batch) -> Array:
        see_key, key = jax.random.split(key)
        x = sequence(cfg, observed(cfg.binarise, check_shape(batch, cfg.shape), see_key))
        return jnp.asarray(net.apply(variables, x, *extra(key), method="log_p"))

    return conditionals.maximum_likelihood(cfg, init_variables, log_p, tx)
