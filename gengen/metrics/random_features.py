"""Features of a fixed random convolutional network: for images of any size, without any weights.

Random convolutions followed by ReLU keep what an image looks like locally, at three scales, and
know nothing of what it shows. Naeem et al. 2020 (2002.09797) recommend such features for data far
from ImageNet. Scores made of them are named `fid[random-v1]`: they tell sets of images apart and
see noise, blur, wrong colours and missing kinds, but they are no FID, and not comparable with one.

    x [B, H, W, C], at most 64 pixels a side → 3×3 convolutions of 32, 64 and 32 channels, each with
    ReLU, a 2×2 mean pool after the first two → means over the quarters of the image: [B, 128]
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gengen.metrics.checks import check_images
from gengen.types import Array, InputError

CHANNELS = (32, 64, 32)
LARGEST, SMALLEST = 64, 4  # pixels of a side
SEED = 20_201
BATCH = 250  # images at a time: the last batch is padded, so one program is compiled


class RandomFeatures:
    """The extractor "random-v1": 128 features of uint8 images, 4 pixels a side or more."""

    name = "random-v1"

    @cached_property
    def weights(self) -> list[np.ndarray]:
        """Kernels, float32 [3, 3, in, out], of variance 2 / inputs: the same on every machine."""
        generator = np.random.RandomState(SEED)  # its stream is frozen, that of default_rng is not
        sizes = (3, *CHANNELS)
        shapes = [(3, 3, a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
        return [
            (generator.standard_normal(s) * np.sqrt(2 / np.prod(s[:3]))).astype(np.float32)
            for s in shapes
        ]

    @property
    def sha256(self) -> str:
        """Of its weights (hex)."""
        return hashlib.sha256(b"".join(w.tobytes() for w in self.weights)).hexdigest()

    def features(self, images: np.ndarray) -> np.ndarray:
        """Features, float32 [N, 128], of uint8 images [N, H, W, C].

        A grey channel is repeated; of more than 3 channels the first 3 are taken.

        Raises:
            InputError: for vectors, or images of fewer than 4 pixels a side.
        """
        if np.ndim(images) != 4:
            raise InputError(f"{self.name}: it takes images, not {list(np.shape(images))}")
        images = check_images("images", images)
        if min(images.shape[1:3]) < SMALLEST:
            raise InputError(f"{self.name}: a side has at least {SMALLEST} pixels")
        parts = []
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            padded = np.zeros((BATCH, *images.shape[1:]), np.uint8)
            padded[: len(part)] = part
            parts.append(np.asarray(_features(self.weights, jnp.asarray(padded)))[: len(part)])
        return np.concatenate(parts)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Random features have no classes."""
        raise InputError("is: random features have no classes; use a classifier")


@jax.jit
def _features(weights: Any, images: Array) -> Array:
    x = images.astype(jnp.float32) / 127.5 - 1
    x = jnp.repeat(x[..., :1], 3, axis=-1) if x.shape[-1] < 3 else x[..., :3]
    sides = tuple(min(side, LARGEST) for side in x.shape[1:3])
    x = jax.image.resize(x, (len(x), *sides, 3), "linear", antialias=True)
    for i, kernel in enumerate(weights):
        x = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision="highest",
        )  # fmt: skip
        x = jax.nn.relu(x)
        if i < len(weights) - 1 and min(x.shape[1:3]) >= SMALLEST:
            x = _halved(x)
    rows, columns = x.shape[1] // 2, x.shape[2] // 2
    quarters = [
        x[:, a, b].mean(axis=(1, 2))
        for a in (slice(None, rows), slice(rows, None))
        for b in (slice(None, columns), slice(columns, None))
    ]
    return jnp.concatenate(quarters, axis=1)


def _halved(x: Array) -> Array:
    n, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
