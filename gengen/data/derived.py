"""Data sets made of other ones: pairs of an image and its edges or its grey version; some classes.

    edges:SPEC             "image" is the edges of an image, "target" the image: edges:fashion
    grey:SPEC              "image" is a colour image in grey, "target" the image: grey:photographs
    SPEC:classes=A+B       examples of some classes, by number or name: fashion:classes=7

The edges are the magnitude of Sobel's gradient, normalised so that a step from black to white along
a row or column has 255, and clipped there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from gengen.data.dataset import Dataset
from gengen.data.images import to_grey
from gengen.data.stream import HostBatch, Stream
from gengen.types import InputError

TRANSFORMS = ("edges", "grey")
_CLASSES = ":classes="


def sobel(images: np.ndarray) -> np.ndarray:
    """Return the edges of images: uint8 [N, H, W, C] → uint8 [N, H, W, 1].

    The largest gradient of the channels counts. Beyond the border the pixels at it are repeated.
    """
    x = np.pad(images.astype(np.float32), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    smooth = x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]  # along columns
    dx = smooth[:, :, 2:] - smooth[:, :, :-2]
    smooth = x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]  # along rows
    dy = smooth[:, 2:] - smooth[:, :-2]
    size = np.sqrt(dx**2 + dy**2).max(axis=3, keepdims=True) / 4
    return np.rint(np.minimum(size, 255)).astype(np.uint8)


def grey(images: np.ndarray) -> np.ndarray:
    """Return colour images in grey: uint8 [N, H, W, 3] → uint8 [N, H, W, 1]."""
    return np.stack([to_grey(image) for image in images])


_FUNCTIONS = {"edges": sobel, "grey": grey}


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Rows → images and their transforms.

    Attributes:
        data: that is read.
        kind: of the transform.
    """

    data: Stream
    kind: str

    def __call__(self, rows: np.ndarray) -> HostBatch:
        return _paired(self.data.read(rows), self.kind)


def _paired(arrays: HostBatch, kind: str) -> HostBatch:
    pair = {"image": _FUNCTIONS[kind](arrays["image"]), "target": arrays["image"]}
    return pair | ({"label": arrays["label"]} if "label" in arrays else {})


def with_targets(name: str, kind: str, data: Dataset | Stream) -> Dataset | Stream:
    """Return pairs of a transform of an image and the image.

    Args:
        name: of the set.
        kind: one of `TRANSFORMS`.
        data: whose images are the targets.

    Raises:
        InputError: for data that are not images or, with "grey", not in colour.
    """
    if len(data.shape) != 3 or (isinstance(data, Dataset) and "image" not in data.arrays):
        raise InputError(f"{name}: {data.name} has no images")
    if kind == "grey" and data.shape[2] != 3:
        raise InputError(f"{name}: {data.name} is in grey: use a set in colour, or edges:")
    if isinstance(data, Dataset):
        return Dataset(name, _paired(data.arrays, kind), data.classes)
    digest = hashlib.sha256(f"{kind} {data.fingerprint}".encode()).hexdigest()
    shape = (*data.shape[:2], 1)
    return Stream(
        name, _Pairs(data, kind), len(data), shape, digest, data.classes, target_shape=data.shape
    )


def split_classes(spec: str) -> tuple[str, list[str]]:
    """Split "SPEC:classes=A+B" into SPEC and the classes; no classes where none are named."""
    start, found, names = spec.rpartition(_CLASSES)
    return (start, names.split("+")) if found else (spec, [])


def of_classes(name: str, data: Dataset | Stream, classes: list[str]) -> Dataset:
    """Return the examples of some classes; labels and the names of all classes stay.

    Args:
        name: of the set.
        data: with labels.
        classes: numbers or names; upper or lower case is the same.

    Raises:
        InputError: for data without labels, that are streamed, or have no such class.
    """
    if not isinstance(data, Dataset) or "label" not in data.arrays:
        raise InputError(f"{name}: classes are chosen of labelled data in memory")
    labels = data.arrays["label"]
    names = [each.lower() for each in data.classes or ()]
    known = {str(number): number for number in np.unique(labels).tolist()}
    known |= {each: number for number, each in enumerate(names)}
    wrong = [each for each in classes if each.lower() not in known]
    if wrong:
        there = ", ".join(data.classes) if data.classes else ", ".join(known)
        raise InputError(f"{name}: no class {wrong[0]!r}: there are {there}")
    rows = np.isin(labels, [known[each.lower()] for each in classes])
    arrays = {k: v[rows] for k, v in data.arrays.items() if not k.startswith("other")}
    return Dataset(name, arrays, data.classes)
