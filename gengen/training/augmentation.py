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


def affine(key: Key, batch: Batch) -> Batch:
    """Distort each image by a random affine map about its centre, as Koch et al. 2015 do.

    A rotation within 10°, two shears within 0.3, two scales in 0.8..1.2 and two shifts within 2
    pixels are drawn uniformly, and each is left out with probability 1/2. Pixels between those of
    the image are interpolated; beyond its edge the nearest one counts.

    Args:
        key: of the choice.
        batch: its "image" [B, H, W, C] is distorted. Everything else stays as it is.
    """
    x = jnp.asarray(batch["image"])
    draws = rng.uniform(key, (x.shape[0], 14))
    # angle, shears, scales, shifts: the ends of each, and what stands for its absence
    far = jnp.array([jnp.pi / 18, 0.3, 0.3, 0.2, 0.2, 2.0, 2.0])
    values = jnp.where(draws[:, 7:] < 0.5, far * (2 * draws[:, :7] - 1), 0.0)
    return {**batch, "image": jax.vmap(_warped)(x, values)}


def _warped(image: Array, values: Array) -> Array:
    """Return an image [H, W, C] under (angle, shears, scales - 1, shifts), values [7]."""
    angle, shear, scale, shift = values[0], values[1:3], 1 + values[3:5], values[5:7]
    rotation = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
    sheared = jnp.array([[1.0, shear[0]], [shear[1], 1.0]])
    forward = rotation @ sheared @ jnp.diag(scale)
    height, width, _ = image.shape
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2])
    places = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1)
    source = (places - centre - shift) @ jnp.linalg.inv(forward).T + centre
    rows, columns = source[..., 0], source[..., 1]
    sample = lambda channel: jax.scipy.ndimage.map_coordinates(  # noqa: E731
        channel, [rows, columns], order=1, mode="nearest"
    )
    return jax.vmap(sample, in_axes=-1, out_axes=-1)(image)


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
