"""From the name of a data set to the data set."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial

from gengen.data.dataset import Dataset
from gengen.data.npz import load_npz
from gengen.data.offline import digits, fashion, mnist5k
from gengen.data.toy import load_toy
from gengen.types import InputError

SPLITS = ("train", "test")

# To add a set: one line, a function of the split.
LOADERS: dict[str, Callable[[str], Dataset]] = {
    "digits": digits,
    "mnist5k": mnist5k,
    "fashion": fashion,
    "mouse": partial(load_toy, "mouse"),
    "ring8": partial(load_toy, "ring8"),
    "grid25": partial(load_toy, "grid25"),
    "moons": partial(load_toy, "moons"),
    "checkerboard": partial(load_toy, "checkerboard"),
    "swiss_roll": partial(load_toy, "swiss_roll"),
}


def names() -> list[str]:
    """The names that `load` knows, images first."""
    return list(LOADERS)


def load(spec: str) -> Dataset:
    """Load a data set into memory.

    Args:
        spec: NAME or NAME:SPLIT, where SPLIT is train (the default) or test: "mnist5k:test". Or
            the path of an .npz file, which has no splits.

    Raises:
        InputError: for an unknown name (the message guesses which was meant) or split, and for
            files that are missing or broken.
    """
    name, colon, split = spec.partition(":")
    if name not in LOADERS:
        if spec.endswith(".npz"):
            return load_npz(spec)
        if ".npz:" in spec:
            raise InputError(f"{spec}: an .npz file has no splits: give its path alone")
        raise InputError(_unknown(name))
    if colon and split not in SPLITS:
        raise InputError(f"{spec}: no split {split!r}: the splits are {', '.join(SPLITS)}")
    return LOADERS[name](split or "train")


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), names(), n=1)
    guess = f" did you mean {close[0]!r}?" if close else ""
    return f"no data set {name!r}:{guess} there are {', '.join(names())}, and paths of .npz files"
