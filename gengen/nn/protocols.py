"""How three tools bring images to the 299×299 pixels that FID's network sees.

    torch-fidelity   the original's: TensorFlow 1's bilinear resize, row i from i·H/299;
                     (x - 128) / 128. StyleGAN's too.
    pytorch-fid      bilinear between pixel centres, row i from (i + ½)·H/299 - ½; 2x/255 - 1
    clean-fid        PIL's bicubic, which averages when it shrinks (Parmar, Zhang & Zhu 2021,
                     2104.11222), clipped but not rounded; (x - 128) / 128

The first two skip pixels when they shrink. A resize is a product with a matrix [m, n] along each
axis: what each of m output rows takes of n input rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from gengen.types import Array

SIZE = 299  # pixels of a side


def linear_from_corners(n: int, m: int) -> np.ndarray:
    """TensorFlow 1's bilinear (neither aligned corners nor half pixels): row i from i·n/m."""
    return _linear(np.arange(m, dtype=np.float32) * np.float32(n / m), n)


def linear_from_centres(n: int, m: int) -> np.ndarray:
    """PyTorch's bilinear, without antialiasing: row i from (i + ½)·n/m - ½."""
    source = (np.arange(m) + 0.5) * float(np.float32(n / m)) - 0.5  # there, rounded once
    return _linear(np.maximum(source, 0).astype(np.float32), n)


def bicubic(n: int, m: int) -> np.ndarray:
    """PIL's bicubic: Keys' kernel with a = -½ about (i + ½)·n/m - ½, widened to shrink."""
    scale = n / m
    centres = (np.arange(m)[:, None] + 0.5) * scale - 0.5
    x = np.abs(np.arange(n) - centres) / max(scale, 1.0)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _linear(source: np.ndarray, n: int) -> np.ndarray:
    # Places in float32, as the originals have them: of 1000 pixels it shows in the third decimal.
    low, rows = source.astype(np.int64), np.arange(len(source))
    weights, rest = np.zeros((len(source), n), np.float32), source - low
    np.add.at(weights, (rows, low), 1 - rest)
    np.add.at(weights, (rows, np.minimum(low + 1, n - 1)), rest)
    return weights


class Protocol(NamedTuple):
    """How images become what the network sees: resized, then (x - shift) / scale.

    Attributes:
        matrix: of the resize, of (n, m).
        shift: grey level that becomes 0.
        scale: grey levels from 0 to 1.
    """

    matrix: Callable[[int, int], np.ndarray]
    shift: float
    scale: float


PROTOCOLS = {
    "torch-fidelity": Protocol(linear_from_corners, 128, 128),
    "pytorch-fid": Protocol(linear_from_centres, 127.5, 127.5),
    "clean-fid": Protocol(bicubic, 128, 128),
}


def resize(images: Array, protocol: str) -> Array:
    """Images [B, H, W, C] in grey levels as float32 [B, 299, 299, C] in [0, 255]."""
    matrix, x = PROTOCOLS[protocol].matrix, images.astype(jnp.float32)
    _, height, width, _ = x.shape
    highest = lax.Precision.HIGHEST
    if width != SIZE:  # each of them leaves an axis of that size as it is
        x = jnp.einsum("jw,bhwc->bhjc", matrix(width, SIZE), x, precision=highest)
    if height != SIZE:
        x = jnp.einsum("ih,bhwc->biwc", matrix(height, SIZE), x, precision=highest)
    return jnp.clip(x, 0, 255)  # it is the bicubic one that overshoots


def preprocess(images: Array, protocol: str) -> Array:
    """What the network sees of uint8 images [B, H, W, 3]: float32 [B, 299, 299, 3]."""
    _, shift, scale = PROTOCOLS[protocol]
    return (resize(images, protocol) - shift) / scale
