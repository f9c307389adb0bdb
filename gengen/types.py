"""What a model is, and the arrays that flow through it.

A model is two pure functions, `init` and `train_step` (a `Method`); its state is a pytree of arrays
(a `TrainState`). Nothing else is needed to train it: the engine knows no more of it than this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from gengen.errors import InputError as InputError

Array = jax.Array
Key = jax.Array
PyTree = Any
# Arrays, on a device or the host: {"image": [B, H, W, C] in [-1, 1], "label": [B]} or {"x": [B, D]}
Batch = Mapping[str, Any]
Metrics = dict[str, Array]  # scalars, by name
Shape = tuple[int, ...]
LAYOUT = ("NHWC", "HWIO", "NHWC")  # of a convolution's images, kernel and outputs


class TrainState(struct.PyTreeNode):
    """Everything that training changes, as arrays: no function, no optimiser object, no key.

    Attributes:
        step: number of train steps taken, int32 [].
        params: what the optimiser changes. Of a game: a dict by player.
        opt_state: the optimisers' states.
        mutables: what a step changes by other means (batch statistics, codebook sums, a replay
            buffer): a dict by Flax collection.
        ema: exponential moving average of `params`; None where unused.
    """

    step: Any  # an array, on a device or the host, or its shape and dtype
    params: PyTree
    opt_state: PyTree
    mutables: PyTree
    ema: PyTree

    @property
    def variables(self) -> dict[str, PyTree]:
        """What sampling wants: the EMA parameters if there are any, with the mutables."""
        return {"params": self.params if self.ema is None else self.ema, **self.mutables}


class Method(NamedTuple):
    """A trainable model: two pure functions, and what it knows of its own failing.

    Attributes:
        init: (key, batch) -> the state at step 0. The batch tells shapes, and some models their
            first scales.
        train_step: (key, state, batch) -> the next state and scalar metrics. The step's own key is
            derived from `key` and `state.step`, so one key serves a whole run.
        warn: mean metrics since the last line of the log -> what is wrong with the training, a
            sentence each with the measured quantity; nothing if it is well.
    """

    init: Callable[[Key, Batch], TrainState]
    train_step: Callable[[Key, TrainState, Batch], tuple[TrainState, Metrics]]
    warn: Callable[[Mapping[str, float]], Sequence[str]] = lambda metrics: ()


def count(params: PyTree) -> int:
    """Return the number of parameters: of arrays, or of their shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def example_shape(batch: Batch) -> Shape:
    """Shape of one example of a batch: (H, W, C) of an image, (D,) of a vector."""
    return tuple(data_of(batch).shape[1:])


def data_of(batch: Batch) -> Array:
    """The observed variable x of a batch, images or vectors: [B, H, W, C] or [B, D].

    Raises:
        InputError: if the batch holds neither, or is empty.
    """
    for name in ("image", "x"):
        if name in batch:
            x = jnp.asarray(batch[name])
            if x.ndim == 0 or x.shape[0] == 0:
                raise InputError(f"batch[{name!r}] is empty: it must be [B, ...] with B ≥ 1")
            return x
    raise InputError(f'a batch needs "image" or "x"; this one has {sorted(batch)}')


def check_shape(batch: Batch, shape: Shape) -> Array:
    """The batch's x, once it is known to be float and [B, *shape].

    Raises:
        InputError: naming what was given and what the Config says.
    """
    x = data_of(batch)
    if tuple(x.shape[1:]) != tuple(shape):
        raise InputError(
            f"examples have shape {tuple(x.shape[1:])}, but Config.shape is {tuple(shape)}: "
            f"set shape={tuple(x.shape[1:])}"
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(
            f"examples are {x.dtype}, but a batch holds floats: scale images to [-1, 1] "
            "(gengen.data.to_batch does)"
        )
    return x
