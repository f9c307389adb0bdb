"""Weights in PyTorch's form and images, made up from a seed: for gengen and for its references."""

from collections.abc import Mapping

import numpy as np


def random_state_dict(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Float32 arrays of the given shapes that keep activations of size 1 through ReLU networks.

    RandomState: the one generator of NumPy whose numbers are promised never to change.
    """
    rng = np.random.RandomState(seed)
    return {name: _draw(rng, name, shapes[name]).astype(np.float32) for name in sorted(shapes)}


def _draw(rng: np.random.RandomState, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) > 1:  # a kernel [O, I, H, W] or a matrix [O, I]: variance 2 / inputs
        return rng.uniform(-1, 1, shape) * np.sqrt(6 / np.prod(shape[1:]))
    if name.endswith((".running_var", ".bn.weight")):
        return rng.uniform(0.5, 1.5, shape)
    return rng.uniform(-0.2, 0.2, shape)


def random_images(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Uint8 images of coloured patches and grain: some pixels at 0 and at 255."""
    rng = np.random.RandomState(seed)
    num, height, width, channels = shape
    patches = rng.uniform(-40, 300, (num, -(-height // 8), -(-width // 8), channels))
    smooth = patches.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    return np.clip(smooth + rng.normal(0, 12, shape), 0, 255).astype(np.uint8)
