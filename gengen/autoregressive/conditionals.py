r"""Binarisation, partial observations and training, shared by all autoregressive models.

p(x) = Π_i p(x_i | x_1, ..., x_{i-1}),    i along an order of the dimensions
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gengen import distributions as dist
from gengen.optim import optimizer
from gengen.steps import descent, with_ema
from gengen.steps import method as build
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, Shape

BINARISE = dist.BINARISATIONS


def check_positive(cfg: object, *names: str) -> None:
    """Check that fields of a Config are positive.

    Raises:
        InputError: naming the field and its value.
    """
    for name in names:
        if not getattr(cfg, name) > 0:
            raise InputError(f"Config.{name} = {getattr(cfg, name)}; it must be positive")


def observed(binarise: str, x: Array, key: Key | None) -> Array:
    """Return the binary image ±1 of x [B, ...], by `gengen.distributions.binarise`."""
    return dist.binarise(x, key, binarise)


def check_observation(
    shape: Shape, num: int, observation: ArrayLike | None, mask: ArrayLike | None, order: np.ndarray
) -> tuple[Array, Array]:
    """Check a partial observation of samples.

    Args:
        shape: of one sample.
        num: number of samples.
        observation: partly observed examples, of a shape that broadcasts to [num, *shape]; None:
            nothing is observed.
        mask: true at observed dimensions; broadcasts to [num, *shape].
        order: index of the i-th dimension of the model's order, [D].

    Returns:
        observation [num, *shape] and mask [num, *shape].

    Raises:
        InputError: if one of both is missing, their shapes do not fit, or an observed dimension
            follows an unobserved one: p(unobserved | observed) is then not a product of the
            model's conditionals.
    """
    full = (num, *shape)
    if observation is None and mask is None:
        return jnp.zeros(full), jnp.zeros(full, bool)
    if observation is None or mask is None:
        lacks = "observation" if observation is None else "mask"
        raise InputError(f"{lacks} is None: pass both observation and mask, or neither")
    x, known = jnp.asarray(observation), np.asarray(mask, bool)
    for name, array in (("observation", x), ("mask", known)):
        sides = zip(array.shape[::-1], full[::-1], strict=False)
        if array.ndim > len(full) or any(a not in (1, n) for a, n in sides):
            raise InputError(f"{name} has shape {array.shape}; it must broadcast to {full}")
    first = np.broadcast_to(known, full).reshape(num, -1)[:, order]
    if np.any(first[:, 1:] & ~first[:, :-1]):
        raise InputError(
            "mask is true after a dimension where it is false, in the model's order: observed "
            "pixels must come first, such as the upper rows"
        )
    return jnp.broadcast_to(x, full), jnp.broadcast_to(jnp.asarray(known), full)


def maximum_likelihood(
    cfg: Any,
    init_variables: Callable[[Key, Batch], PyTree],
    log_p: Callable[[PyTree, Key, Batch], Array],
    tx: optax.GradientTransformation | None,
) -> Method:
    """Train by maximum likelihood. Metric: `loss`, nats per example.

    Args:
        cfg: an `OptimizerConfig` with `learning_rate` and `ema_decay`.
        init_variables: (key, batch) → initial variables.
        log_p: (variables, key, batch) → ln p of each example [B], in nats.
        tx: the optimiser; None: the Config's.
    """

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        return -jnp.mean(log_p({"params": params}, key, batch)), ({}, mutables)

    tx = tx or optimizer(cfg)
    return build(init_variables, with_ema(descent(loss, tx), cfg.ema_decay))
