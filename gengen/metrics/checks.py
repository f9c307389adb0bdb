"""What metrics accept: host arrays in float64, checked, or one line that says what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np

from gengen.types import InputError, Shape


def check_features(name: str, x: Any, at_least: int = 1) -> np.ndarray:
    """Features as float64 [N, D].

    Args:
        name: of the argument, for messages.
        x: [N, D], on the host or a device.
        at_least: the smallest N.

    Raises:
        InputError: if they are not [N, D], not numbers, not finite, or fewer.
    """
    array = np.asarray(x)
    if array.dtype.kind not in "fiu" and str(array.dtype) != "bfloat16":
        raise InputError(f"{name} is {array.dtype}: features are real numbers [N, D]")
    if array.ndim != 2 or array.shape[1] == 0:
        raise InputError(f"{name} has shape {array.shape}: features are [N, D], a row per example")
    if len(array) < at_least:
        raise InputError(f"{name} has {len(array)} examples: at least {at_least} are needed")
    bad = np.count_nonzero(~np.isfinite(array).all(axis=1))
    if bad:
        raise InputError(f"{name} has NaN or infinity in {bad} of {len(array)} rows: find out why")
    return array.astype(np.float64)


def check_pair(real: Any, fake: Any, at_least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Features of real and of generated examples, float64 [N, D] and [M, D], N, M ≥ `at_least`."""
    real, fake = check_features("real", real, at_least), check_features("fake", fake, at_least)
    if real.shape[1] != fake.shape[1]:
        raise InputError(
            f"real has {real.shape[1]} features and fake {fake.shape[1]}: use one extractor"
        )
    return real, fake


def check_images(name: str, images: Any, shape: Shape | None = None) -> np.ndarray:
    """Images as uint8 [N, H, W, C].

    Raises:
        InputError: for anything else, or another (H, W, C) than `shape`.
    """
    array = np.asarray(images)
    if array.dtype == object:
        raise InputError(f"{name} are of mixed sizes: bring all to one [N, H, W, C]")
    if array.dtype != np.uint8:
        raise InputError(
            f"{name} is {array.dtype}, but images are uint8 0..255: use gengen.data.to_uint8 for "
            "floats in [-1, 1]"
        )
    if array.ndim != 4 or array.size == 0:
        raise InputError(f"{name} has shape {array.shape}: images are [N, H, W, C], N ≥ 1")
    if shape is not None and array.shape[1:] != tuple(shape):
        raise InputError(f"{name} is {array.shape[1:]} each, but the network takes {tuple(shape)}")
    return array


def check_probabilities(probs: Any, at_least: int = 1) -> np.ndarray:
    """P(class | example) as float64 [N, K]; each row sums to 1, within float32's rounding.

    Raises:
        InputError: for anything else: scores (logits), say.
    """
    array = check_features("probs", probs, at_least)
    if array.min() < 0 or np.abs(array.sum(axis=1) - 1).max() > 1e-3:
        raise InputError("probs is not [N, K] with rows that sum to 1: apply a softmax to scores")
    return array


def check_labels(labels: Any, num: int, classes: int) -> np.ndarray:
    """Labels as int64 [num], each in 0..classes - 1."""
    array = np.asarray(labels)
    if array.shape != (num,) or array.dtype.kind not in "iu":
        raise InputError(
            f"labels is {array.dtype} {array.shape}: one integer for each of {num} examples"
        )
    if array.min() < 0 or array.max() >= classes:
        raise InputError(
            f"labels go from {array.min()} to {array.max()}, not within 0..{classes - 1}"
        )
    return array.astype(np.int64)
