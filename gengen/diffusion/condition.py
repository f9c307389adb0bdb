"""Conditions of a conditional diffusion: labels, a measurement y = Ax, or both.

`cfg` is a Config of `gengen.diffusion.conditional`, or of a model built on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gengen.contract import check_labels, labels_of, refuse_condition
from gengen.diffusion import operators
from gengen.diffusion.operators import Operator
from gengen.types import Array, Batch, InputError, PyTree, check_shape

ROUNDS = 100  # projections at the end of sampling; each reduces the remaining difference


def _grey(cfg: Any) -> Operator:
    if cfg.shape[-1] != 3 or len(cfg.shape) != 3:
        raise InputError(
            f'Config.condition_image = "grey", but Config.shape = {cfg.shape} has no colours'
        )
    return operators.grey()


OPERATORS: dict[str, Callable[[Any], Operator]] = {
    "grey": _grey, "small": lambda cfg: operators.box(cfg.shape, cfg.factor),
}  # fmt: skip


def operator(cfg: Any) -> Operator:
    """Return A of the measurement y = Ax that the model is conditioned on."""
    return OPERATORS[cfg.condition_image](cfg)


def condition_of(cfg: Any, batch: Batch) -> PyTree:
    """Return labels int32 [B], measurements y = Ax, or both as {"label", "image"}."""
    labels = labels_of(cfg, batch)
    if not cfg.condition_image:
        return labels
    y = measure(cfg, check_shape(batch, cfg.shape))
    return y if labels is None else {"label": labels, "image": y}


def measure(cfg: Any, x: ArrayLike) -> Array:
    """Return the measurements y = Ax of images x [B, *shape]."""
    return operator(cfg).forward(check_shape({"x": x}, cfg.shape))


def split_condition(cfg: Any, condition: PyTree, num: int) -> tuple[Array | None, Array | None]:
    """Return the labels int32 [num] and the measurements [num, ...] of a condition.

    Either is None where the model is not conditioned on it. The labels are None too where the
    condition has none.

    Raises:
        InputError: without a measurement that the model needs, or for one of another shape; for
            labels that are no classes; for a condition of an unconditional model.
    """
    parts = condition if isinstance(condition, Mapping) else {}
    if condition is not None and not isinstance(condition, Mapping):
        parts = {"image" if cfg.condition_image else "label": condition}
    names = {n for n, on in (("label", cfg.num_classes), ("image", cfg.condition_image)) if on}
    if not names:
        refuse_condition(condition)
    if {*parts} - names:
        raise InputError(f"condition has {sorted(parts)}, but this model takes {sorted(names)}")
    labels, y = parts.get("label"), parts.get("image")
    if labels is not None:
        labels = check_labels(labels, num, cfg.num_classes)
    return labels, _measurement(cfg, y, num) if cfg.condition_image else None


def _measurement(cfg: Any, y: ArrayLike | None, num: int) -> Array:
    like = jax.eval_shape(operator(cfg).forward, jax.ShapeDtypeStruct((num, *cfg.shape), "float32"))
    if y is None:
        raise InputError(
            f"this model is conditioned on a {cfg.condition_image} image {list(like.shape)}: pass "
            "condition=..., such as condition_of(cfg, batch)"
        )
    if jnp.shape(y) != like.shape:
        raise InputError(
            f"the condition's image has shape {jnp.shape(y)}; a {cfg.condition_image} image has "
            f"{like.shape}"
        )
    return jnp.asarray(y, jnp.float32)


def in_turn(cfg: Any, labels: Array | None, num: int) -> Array | None:
    """Return the labels or, without any, each class in turn; None without classes."""
    return jnp.arange(num) % cfg.num_classes if cfg.num_classes and labels is None else labels


def one_hot(cfg: Any, labels: Array | None, num: int) -> Array:
    """Return labels as the network takes them, [num, num_classes]; zeros without labels."""
    if labels is None:
        return jnp.zeros((num, cfg.num_classes))
    return jax.nn.one_hot(labels, cfg.num_classes)


def planes_of(cfg: Any, y: Array | None) -> Array | None:
    """Return A⁺y [B, *shape], as the network takes measurements; None without any."""
    return None if y is None else operator(cfg).pinv(y)


def projected(op: Operator, x: Array, y: Array) -> Array:
    """Return an image in [-1, 1] near x with Ax = y, by alternating projections."""
    return jax.lax.fori_loop(0, ROUNDS, lambda _, x: jnp.clip(op.project(x, y), -1, 1), x)
