"""Noise as a function of (key, position in the global batch).

Under pmap each replica sees a part of the batch. If it drew noise of its own, training on eight
devices would be another run than training on one. Here example number i of the *global* batch
draws from `fold_in(key, i)`, wherever it lives, so that the number of devices changes nothing but
the order of sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax
import jax.numpy as jnp

from gengen.types import Array, Key, Shape

AXIS = "devices"  # the one name of the axis over replicas

# Which part of the batch is being traced: rows k, k + n, k + 2n, ... as (k, n).
_part: ContextVar[tuple[Array | int, int]] = ContextVar("part", default=(0, 1))


@contextmanager
def part_of_batch(k: Array | int, n: int) -> Iterator[None]:
    """While tracing: the examples at hand are rows k, k + n, ... of this replica's batch."""
    outer_k, outer_n = _part.get()
    token = _part.set((outer_k + outer_n * k, outer_n * n))
    try:
        yield
    finally:
        _part.reset(token)


def axis_is_bound(axis: str = AXIS) -> bool:
    """Whether the code being traced runs under a pmap (or vmap) over `axis`."""
    try:
        jax.lax.axis_index(axis)
    except NameError:  # JAX's word for an unbound axis
        return False
    return True


def positions(num: int) -> tuple[Array, int]:
    """Where this replica's `num` examples stand in the global batch, int32 [num], and its size."""
    k, n = _part.get()
    rows, total = k + n * jnp.arange(num), n * num
    if not axis_is_bound():
        return rows, total
    return jax.lax.axis_index(AXIS) * total + rows, total * jax.lax.axis_size(AXIS)


def of_all_replicas(x: Array) -> Array:
    """Return the rows of the global batch, x [B, ...] of all replicas in order."""
    return jax.lax.all_gather(x, AXIS, tiled=True) if axis_is_bound() else x


def own_rows(x: Array, num: int) -> Array:
    """Return this replica's rows of the result of `of_all_replicas`."""
    if not axis_is_bound():
        return x
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(AXIS) * num, num)


def example_keys(key: Key, num: int) -> Array:
    """One key for each of this replica's `num` examples: keys [num]."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(positions(num)[0])


def normal(key: Key, shape: Shape) -> Array:
    """Standard normal noise of `shape`, whose first axis is the batch's."""
    draw = lambda k: jax.random.normal(k, shape[1:])  # noqa: E731
    return jax.vmap(draw)(example_keys(key, shape[0]))


def uniform(key: Key, shape: Shape, minval: float = 0.0, maxval: float = 1.0) -> Array:
    """Uniform noise of `shape` in [minval, maxval), whose first axis is the batch's."""
    draw = lambda k: jax.random.uniform(k, shape[1:], minval=minval, maxval=maxval)  # noqa: E731
    return jax.vmap(draw)(example_keys(key, shape[0]))


def stratified(key: Key, num: int, copies: int = 1) -> Array:
    """Uniform numbers in [0, 1), float32 [num], one in each of as many equal parts of it.

    Args:
        key: of the noise.
        num: size of this replica's part of the batch.
        copies: neighbours in the batch that are copies of one example: they are spread wide.
    """
    i, total = positions(num)
    part = i % copies * (total // copies) + i // copies
    return (part + uniform(key, (num,))) / total
