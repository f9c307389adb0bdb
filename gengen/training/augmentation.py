"""Random changes of training examples, inside the compiled step: mirror images, or any function.

A change is a function of (seed, step) and of the place in the whole batch. So a resumed run is bit
for bit the unbroken one, and the number of devices changes nothing. What is not a train step sees
the examples as they are: the first state, previews, validation and evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gengen import rng
from gengen.data import AnyData, Dataset
from gengen.types import Array, Batch, InputError, Key, Method, TrainState

Augment = Callable[[Key, Batch], Batch]

_SEED = 2**31  # beyond the steps that a method folds into the same key
_TOGETHER = (("image", "target"), ("other",))  # arrays of one example each


def augmented(method: Method, augment: Augment) -> Method:
    """Return the method that is trained on augment(key, batch) instead of the batch.

    Args:
        method: what is trained.
        augment: a pure function, traced by JAX: (key, batch) -> batch. The key is another one at
            each step. Images of the batch are float32 [B, H, W, C] in [-1, 1]. Noise from
            `gengen.rng` (`rng.uniform(key, (B,))`) is the same on any number of devices. That of
            `jax.random` is so under jit; under pmap each device would draw the same for its share.
    """

    def train_step(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, Any]:
        own = jax.random.fold_in(jax.random.fold_in(key, _SEED), state.step)
        changed = augment(own, batch)
        if not isinstance(changed, Mapping):
            raise InputError(
                f"augment={name_of(augment)} returned {type(changed).__name__}: it must return a "
                "batch, a dict of arrays"
            )
        return method.train_step(key, state, dict(changed))

    return method._replace(train_step=train_step)


def flip(key: Key, batch: Batch) -> Batch:
    """Mirror each image left to right with probability 1/2.

    Args:
        key: of the choice.
        batch: its images [B, H, W, C]: "image" and "target" are mirrored together, "other" by
            itself. Everything else stays as it is.
    """
    batch = dict(batch)
    for i, names in enumerate(_TOGETHER):
        for name in (name for name in names if name in batch):
            batch[name] = _flipped(jax.random.fold_in(key, i), batch[name])
    return batch


def _flipped(key: Key, images: Any) -> Array:
    x = jnp.asarray(images)
    is_mirrored = rng.uniform(key, (x.shape[0],)) < 0.5
    return jnp.where(is_mirrored[:, None, None, None], x[:, :, ::-1], x)


def check_flip(data: AnyData) -> None:
    """Check that data can be mirrored.

    Raises:
        InputError: for data that are not images.
    """
    if len(data.shape) != 3 or (isinstance(data, Dataset) and "image" not in data.arrays):
        raise InputError(f"--flip mirrors images, but {data.name} has none: leave it out")


def name_of(augment: Augment) -> str:
    """Return the name that `config.json` keeps of a function."""
    return getattr(augment, "__name__", type(augment).__name__)
