r"""What all products of conditionals have in common: what is seen, what is given, and the fit.

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
from gengen.steps import descent, with_ema
from gengen.steps import method as close
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, Shape

BINARISE = dist.BINARISATIONS


def check_positive(cfg: object, *names: str) -> None:
    """Refuse a Config whose fields `names` are not all positive."""
    for name in names:
        if not getattr(cfg, name) > 0:
            raise InputError(f"Config.{name} = {getattr(cfg, name)}, but it is positive")


def observed(binarise: str, x: Array, key: Key | None) -> Array:
    """Return the binary image ±1 of x [B, ...], by `gengen.distributions.binarise`."""
    return dist.binarise(x, key, binarise)


def check_given(
    shape: Shape, num: int, given: ArrayLike | None, mask: ArrayLike | None, order: np.ndarray
) -> tuple[Array, Array]:
    """What is known of the samples, checked.

    Args:
        shape: of one sample.
        num: of samples.
        given: examples that are partly known, of a shape that broadcasts to [num, *shape]; None:
            nothing is known.
        mask: true where they are known; broadcasts to [num, *shape].
        order: which dimension is the i-th, [D].

    Returns:
        given [num, *shape] and mask [num, *shape].

    Raises:
        InputError: if one is missing, they do not fit, or a known dimension comes after an unknown
            one: p(unknown | known) is then no product of the model's conditionals.
    """
    if num < 1:
        raise InputError(f"num = {num}, but at least 1 sample is drawn")
    full = (num, *shape)
    if given is None and mask is None:
        return jnp.zeros(full), jnp.zeros(full, bool)
    if given is None or mask is None:
        lacks = "given" if given is None else "mask"
        raise InputError(f"{lacks} = None: give both, examples and where they are known, or none")
    x, known = jnp.asarray(given), np.asarray(mask, bool)
    for name, array in (("given", x), ("mask", known)):
        sides = zip(array.shape[::-1], full[::-1], strict=False)
        if array.ndim > len(full) or any(a not in (1, n) for a, n in sides):
            raise InputError(f"{name} has shape {array.shape}: it must broadcast to {full}")
    first = np.broadcast_to(known, full).reshape(num, -1)[:, order]
    if np.any(first[:, 1:] & ~first[:, :-1]):
        raise InputError(
            "mask is true after a place where it is false, in the model's order: known pixels must "
            "come first, as the upper rows do"
        )
    return jnp.broadcast_to(x, full), jnp.broadcast_to(jnp.asarray(known), full)


def maximum_likelihood(
    cfg: Any,
    init_variables: Callable[[Key, Batch], PyTree],
    log_p: Callable[[PyTree, Key, Batch], Array],
    tx: optax.GradientTransformation | None,
) -> Method:
    """Climb the mean of ln p; Adam if `tx` is None. Metric: `loss`, nats per example.

    Args:
        cfg: with `learning_rate` and `ema_decay`.
        init_variables: (key, batch) → the variables at first.
        log_p: (variables, key, batch) → ln p of each example [B], in nats.
        tx: the optimiser.
    """

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        return -jnp.mean(log_p({"params": params}, key, batch)), ({}, mutables)

    tx = tx or optax.adam(cfg.learning_rate)
    return close(init_variables, with_ema(descent(loss, tx), cfg.ema_decay))
