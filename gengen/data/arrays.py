"""Arrays of NumPy's usual types as the arrays of a `Dataset`."""

from __future__ import annotations

from typing import Any

import numpy as np

from gengen.types import InputError

MAX_LABEL = np.iinfo(np.int32).max


def to_data(where: str, values: Any) -> tuple[str, np.ndarray]:
    """Return images or vectors under the name, dtype and rank that a `Dataset` has.

    Images may lack the axis of channels where there is one channel.

    - uint8 [N, H, W, C] or [N, H, W]: images.
    - other integers of that shape: images, if all values lie in 0..255.
    - bool of that shape: images, False black and True white.
    - float of that shape: images, quantised to uint8. All values in [0, 1]: v becomes
      round(255 v). Otherwise, all in [-1, 1]: round(127.5 (v + 1)).
    - float [N, D]: vectors, cast to float32.

    Args:
        where: what the array is, for messages.
        values: an array, or what NumPy makes one of.

    Returns:
        "image" and uint8 [N, H, W, C], or "x" and float32 [N, D].

    Raises:
        InputError: for anything else, in one line with the cause and the cure.
    """
    array = _array(where, values)
    kind, ranks = array.dtype.kind, (3, 4)
    what = f"{where} is {array.dtype} {list(array.shape)}"
    if array.size == 0:
        raise InputError(f"{what}, which is empty: give at least 1 example")
    if kind == "f" and not np.isfinite(array).all():
        raise InputError(f"{where} holds NaN or infinity: remove those examples")
    if kind == "f" and array.ndim == 2:
        return "x", _vectors(where, array)
    if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[3] > 4:
        raise InputError(f"{what}, channels first it seems: transpose(0, 2, 3, 1) to NHWC")
    if kind in "buif" and array.ndim in ranks:
        images = {"b": _black_and_white, "f": _quantised}.get(kind, _levels)(where, array)
        return "image", images if images.ndim == 4 else images[..., None]
    if kind in "bui" and array.ndim == 2:
        raise InputError(
            f"{what}: reshape images to [N, H, W, C], or give vectors as float, x.astype(float)"
        )
    raise InputError(
        f"{what}: give images as uint8 or float [N, H, W, C] or [N, H, W], and vectors as float "
        "[N, D]"
    )


def to_labels(where: str, values: Any, num: int) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Return labels as a `Dataset` has them, and the names of the classes.

    Args:
        where: what the array is, for messages.
        values: integers of any type, or bool, [N] or [N, 1]: the numbers of the classes, from 0;
            or strings: the names of the classes, which are numbered in sorted order.
        num: N, the number of examples.

    Returns:
        int32 [N], and names where `values` are names, else None.

    Raises:
        InputError: for anything else, in one line with the cause and the cure.
    """
    array = _array(where, values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    what = f"{where} is {array.dtype} {list(array.shape)}"
    if array.ndim != 1:
        cure = ": of one-hot rows pass argmax(1)" if array.ndim == 2 else ""
        raise InputError(f"{what}: labels are integers [N] or strings [N]{cure}")
    if len(array) != num:
        raise InputError(f"{where} has {len(array)} labels for {num} examples: one each")
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "replace")
    if array.dtype.kind == "U":
        names, labels = np.unique(array, return_inverse=True)
        return labels.astype(np.int32), tuple(map(str, names))
    if array.dtype.kind not in "bui":
        cure = ": pass astype(int)" if array.dtype.kind == "f" else ""
        raise InputError(f"{what}: labels are integers [N] or strings [N]{cure}")
    if array.min() < 0 or array.max() > MAX_LABEL:
        raise InputError(
            f"{where} has labels in {array.min()}..{array.max()}: number the classes from 0"
        )
    return array.astype(np.int32), None


def _array(where: str, values: Any) -> np.ndarray:
    """Return `values` as an array of numbers or of strings."""
    try:
        array = np.asarray(values)
    except ValueError:  # of rows of differing lengths
        raise InputError(f"{where} has rows of differing lengths: give one shape to all") from None
    if array.dtype.hasobject:
        if array.size and all(isinstance(value, str) for value in array.flat):
            return array.astype(str)  # as pandas keeps strings
        raise InputError(
            f"{where} holds Python objects, not numbers: np.stack examples of one shape"
        )
    return array


def _vectors(where: str, array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what overflows is found in the next line
        x = array.astype(np.float32)
    if not np.isfinite(x).all():
        raise InputError(f"{where} has values too large for float32: rescale them")
    return x


def _black_and_white(where: str, images: np.ndarray) -> np.ndarray:
    return images.astype(np.uint8) * np.uint8(255)


def _levels(where: str, images: np.ndarray) -> np.ndarray:
    if images.dtype == np.uint8:
        return images
    low, high = int(images.min()), int(images.max())
    if low < 0 or high > 255:
        raise InputError(f"{where} has integers in {low}..{high}: images lie in 0..255")
    if high == 1:
        raise InputError(
            f"{where} has integers in {low}..1, of which 255 would be white: pass astype(bool)"
        )
    return images.astype(np.uint8)


def _quantised(where: str, images: np.ndarray) -> np.ndarray:
    low, high = float(images.min()), float(images.max())
    if low >= 0 and high <= 1:
        return np.rint(images * 255.0).astype(np.uint8)
    if low >= -1 and high <= 1:
        return np.rint((images + 1.0) * 127.5).astype(np.uint8)
    cure = "divide them by 255" if low >= 0 and 1 < high <= 255 else "rescale them"
    raise InputError(
        f"{where} has float images in [{low:g}, {high:g}], neither [0, 1] nor [-1, 1]: {cure}, or "
        "save uint8"
    )
