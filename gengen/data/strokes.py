"""Measured attributes of images of handwriting: thickness and slant of the strokes, and size.

They are computed from the ink alone, w = (x + 1)/2 in [0, 1], so they need no labels: they say
whether an image keeps its style when a model changes its class.
"""

from __future__ import annotations

import numpy as np
from jax.typing import ArrayLike

from gengen.types import InputError


def stroke_thickness(images: ArrayLike) -> np.ndarray:
    """Return the mean thickness of the strokes: float64 [N], in pixels.

    It is the shorter side t of the rectangle that has the ink's area A and perimeter P:
    t·L = A, 2 (t + L) = P, so t = P/4 - √(P²/16 - A). The perimeter is the total variation
    Σ |∇w|. Thin strokes have t ≈ 2A/P, whatever their course. Without ink it is 0.

    Args:
        images: [N, H, W, C] in [-1, 1], strokes bright; the channels are averaged.

    Raises:
        InputError: for another shape.
    """
    w = _ink(images)
    # With a border of background, so that the strokes at the edge have an outline there.
    padded = np.pad(w, ((0, 0), (1, 1), (1, 1)))
    down, right = np.diff(padded, axis=1)[:, :, :-1], np.diff(padded, axis=2)[:, :-1]
    area, perimeter = w.sum((1, 2)), np.hypot(down, right).sum((1, 2))
    return perimeter / 4 - np.sqrt(np.maximum(perimeter**2 / 16 - area, 0))


def slant(images: ArrayLike) -> np.ndarray:
    """Return the slant: float64 [N], in pixels to the right for each pixel up.

    It is the tangent of the angle between the strokes and the vertical, from the second moments of
    the ink: the covariance of column and height, divided by the variance of height. It is 0 without
    ink, or if all ink is in one row.

    Args:
        images: [N, H, W, C] in [-1, 1], strokes bright; the channels are averaged.

    Raises:
        InputError: for another shape.
    """
    w = _ink(images)
    mass = np.maximum(w.sum((1, 2)), 1e-12)
    height, column = -np.arange(w.shape[1])[:, None], np.arange(w.shape[2])

    def mean(values: np.ndarray) -> np.ndarray:
        return (w * values).sum((1, 2), keepdims=True) / mass[:, None, None]

    h, c = height - mean(height), column - mean(column)
    variance = mean(h * h)[:, 0, 0]
    return np.where(variance > 1e-9, mean(h * c)[:, 0, 0] / np.maximum(variance, 1e-9), 0.0)


def size(images: ArrayLike) -> np.ndarray:
    """Return the size: float64 [N], the root mean square distance of the ink from its centre.

    It is in pixels, and 0 without ink.

    Args:
        images: [N, H, W, C] in [-1, 1], strokes bright; the channels are averaged.

    Raises:
        InputError: for another shape.
    """
    w = _ink(images)
    mass = np.maximum(w.sum((1, 2)), 1e-12)
    row, column = np.mgrid[: w.shape[1], : w.shape[2]]
    centres = [
        (w * place).sum((1, 2), keepdims=True) / mass[:, None, None] for place in (row, column)
    ]
    squares = (row - centres[0]) ** 2 + (column - centres[1]) ** 2
    return np.sqrt((w * squares).sum((1, 2)) / mass)


def _ink(images: ArrayLike) -> np.ndarray:
    """Return the ink of images [N, H, W, C]: [N, H, W], in [0, 1]."""
    x = np.asarray(images, np.float64)
    if x.ndim != 4:
        raise InputError(f"images have shape {x.shape}; they must be [N, H, W, C]")
    return (x.mean(-1) + 1) / 2
