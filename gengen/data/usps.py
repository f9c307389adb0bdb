"""USPS: 7,291 training and 2,007 test digits of envelopes, 16×16, read from files that you have.

Hull 1994, *A Database for Handwritten Text Recognition Research*. Two forms of the set are in use,
and both are looked for in $GENGEN_DATA_DIR and its folder `usps`:

    usps.h5                groups train and test, each with "data" [N, 256] in [0, 1] and
                           "target" [N], 0 to 9; reading it needs h5py
    usps, usps.t           LIBSVM's text, perhaps with the suffix .bz2: a line for each digit,
                           "LABEL 1:VALUE ... 256:VALUE"; values in [-1, 1], labels 1 to 10
"""

from __future__ import annotations

import bz2
import os
from pathlib import Path
from typing import Any

import numpy as np

from gengen.data.dataset import Dataset
from gengen.data.offline import DATA_DIR_VARIABLE
from gengen.types import InputError

SIDE, CLASSES = 16, tuple("0123456789")
_TEXTS = {"train": "usps", "test": "usps.t"}


def usps(split: str) -> Dataset:
    """Read a split of USPS, "train" or "test": images uint8 [N, 16, 16, 1], labels 0 to 9.

    Raises:
        InputError: naming the missing or broken file.
    """
    named = os.environ.get(DATA_DIR_VARIABLE)
    folders = [Path(named) / "usps", Path(named)] if named else []
    for folder in folders:
        for name in ("usps.h5", _TEXTS[split], f"{_TEXTS[split]}.bz2"):
            if (folder / name).is_file():
                path = folder / name
                pixels, label = _h5(path, split) if name == "usps.h5" else _text(path)
                return _checked(path, split, pixels, label)
    where = f"not in {named}" if named else f"name their folder in {DATA_DIR_VARIABLE}"
    raise InputError(f"usps: usps.h5, or usps and usps.t of LIBSVM, must be on disk: {where}")


def _h5(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels in [0, 1] and digits."""
    try:
        import h5py  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(f"{path}: reading it needs h5py: pip install 'gengen[usps]'") from None
    try:
        with h5py.File(path, "r") as file:
            group: Any = file[split]
            return np.asarray(group["data"], np.float64), np.asarray(group["target"], np.int64)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error}): fetch the file again") from None


def _text(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels in [0, 1] and digits."""
    try:
        raw = path.read_bytes()
        lines = (bz2.decompress(raw) if path.suffix == ".bz2" else raw).decode("ascii").split("\n")
        lines = [line.split() for line in lines if line.strip()]
        label = np.array([int(float(words[0])) - 1 for words in lines], np.int64)
        pixels = np.full((len(lines), SIDE * SIDE), 0.0)  # a value that is left out is 0
        for row, words in zip(pixels, lines, strict=True):
            for word in words[1:]:
                place, _, value = word.partition(":")
                if not 1 <= int(place) <= row.size:
                    raise ValueError(f"a digit has {row.size} values, not {place}")
                row[int(place) - 1] = float(value)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read ({error}): fetch the file again") from None
    return (pixels + 1) / 2, label


def _checked(path: Path, split: str, pixels: np.ndarray, label: np.ndarray) -> Dataset:
    """Return the data set, once it is known to be one of digits."""
    if pixels.shape != (len(label), SIDE * SIDE) or not len(label):
        raise InputError(f"{path}: {list(pixels.shape)} values; it must be [N, {SIDE * SIDE}]")
    low, high = float(pixels.min()), float(pixels.max())
    if not (np.isfinite(pixels).all() and low >= -1e-3 and high <= 1 + 1e-3):
        raise InputError(f"{path}: values scaled to {low:g}..{high:g}; they must lie in 0..1")
    if label.min() < 0 or label.max() > 9:
        raise InputError(f"{path}: digits {label.min()}..{label.max()}; they must lie in 0..9")
    image = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8).reshape(-1, SIDE, SIDE, 1)
    return Dataset(f"usps:{split}", {"image": image, "label": label.astype(np.int32)}, CLASSES)
