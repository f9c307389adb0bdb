"""From the name of a data set to the data set."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gengen.data.captions import with_captions
from gengen.data.dataset import Dataset
from gengen.data.derived import TRANSFORMS, of_classes, split_classes, with_targets
from gengen.data.folder import load_folder
from gengen.data.images import SUFFIXES, resized, to_grey
from gengen.data.npz import load_npy, load_npz
from gengen.data.offline import digits, fashion, mnist5k, photographs
from gengen.data.options import DataOptions
from gengen.data.pairs import load_halves, load_pairs, two, unpaired
from gengen.data.stream import Stream
from gengen.data.toy import load_toy
from gengen.data.usps import usps
from gengen.types import InputError

AnyData = Dataset | Stream
SPLITS = ("train", "test")
_SPLIT_FOLDERS = ("train", "val", "valid", "validation", "test")

# To add a set: one line, a function of the split.
LOADERS: dict[str, Callable[[str], Dataset]] = {
    "digits": digits,
    "mnist5k": mnist5k,
    "fashion": fashion,
    "photographs": photographs,
    "usps": usps,
    "mouse": partial(load_toy, "mouse"),
    "ring8": partial(load_toy, "ring8"),
    "grid25": partial(load_toy, "grid25"),
    "moons": partial(load_toy, "moons"),
    "checkerboard": partial(load_toy, "checkerboard"),
    "swiss_roll": partial(load_toy, "swiss_roll"),
}


def names() -> list[str]:
    """The names that `open_data` knows, images first."""
    return list(LOADERS)


def load(spec: str, options: DataOptions = DataOptions()) -> Dataset:  # noqa: B008
    """Load a data set into memory, whatever its size; arguments and errors of `open_data`."""
    data = open_data(spec, dataclasses.replace(options, stream=False))
    assert isinstance(data, Dataset)
    return data


def load_data(source: Any, label: Any = None, options: DataOptions = DataOptions()) -> AnyData:  # noqa: B008
    """Return the data that `source` stands for.

    Args:
        source: a spec as in `open_data`; a `Dataset` or `Stream`, returned as it is; an array of
            images or vectors, as in `Dataset.of`; or a tuple of it and its labels.
        label: of an array: integers or strings [N], as in `Dataset.of`.
        options: how images are read.

    Raises:
        InputError: as `open_data`, or for an array that is neither images nor vectors.

    Example:
        >>> len(gengen.load_data("digits"))
        1437
    """
    if isinstance(source, Dataset | Stream):
        return source
    if isinstance(source, str | Path):
        return open_data(str(source), options)
    if isinstance(source, tuple) and len(source) == 2 and label is None:
        source, label = source
    return Dataset.of(source, label)


def open_data(spec: str, options: DataOptions = DataOptions()) -> Dataset | Stream:  # noqa: B008
    """Open a data set: in memory, or as a stream if it does not fit there.

    Args:
        spec: one of

            - NAME or NAME:SPLIT, where SPLIT is train (the default) or test: "mnist5k:test";
              upper or lower case is the same;
            - the path of an .npz or .npy file; PATH.npz:SPLIT where its arrays have splits in their
              names, such as x_test;
            - folder:PATH, images; folder:PATH:SPLIT where PATH has folders train and test. The
              path of an existing folder alone means the same;
            - pairs:A,B, halves:PATH, halves:PATH:right and unpaired:SPEC,SPEC, see
              `gengen.data.pairs`;
            - edges:SPEC, grey:SPEC and SPEC:classes=A+B, see `gengen.data.derived`;
            - captions:NAME or captions:NAME:SPLIT, digits with captions, see
              `gengen.data.captions`;
            - tfds:NAME or tfds:NAME/CONFIG:SPLIT, TensorFlow Datasets.
        options: how images are read.

    Raises:
        InputError: for an unknown name (the message guesses which was meant) or split, and for
            files that are missing or broken.
    """
    options.check()
    spec = _canonical(spec)
    kind, colon, rest = spec.partition(":")
    if colon and kind in TRANSFORMS:
        return with_targets(spec, kind, open_data(rest, options))
    if colon and kind == "captions":
        return _captioned(spec, rest, options)
    if colon and kind == "unpaired":
        a, b = two(rest, "unpaired")
        return unpaired(spec, open_data(a, options), open_data(b, options))
    whole, classes = split_classes(spec)
    if classes:
        return of_classes(spec, open_data(whole, options), classes)
    if colon and kind == "folder":
        return load_folder(spec, _split_folder(os.path.expanduser(rest)), options)
    if colon and kind == "pairs":
        return load_pairs(spec, rest, options)
    if colon and kind == "halves":
        return load_halves(spec, rest, options)
    if colon and kind == "tfds":
        from gengen.data.tensorflow_datasets import load_tfds

        return load_tfds(spec, rest, options)
    if spec.endswith(".npy"):
        return _as_asked(load_npy(spec, options.stream), options)
    if options.stream:
        cure = "save the array as .npy" if spec.endswith(".npz") else "leave out --stream"
        raise InputError(f"{spec} is not read from the disk while training: {cure}")
    return _as_asked(_by_name(spec), options)


def _captioned(spec: str, rest: str, options: DataOptions) -> Dataset:
    """Return captions:REST, whose words depend on the training part of the set."""
    name, _, split = _canonical(rest).partition(":")
    if name not in LOADERS:
        raise InputError(f"{spec}: captions are of digits, mnist5k and usps, not of {rest!r}")
    train = load(name, options)
    data = train if split in ("", "train") else load(rest, options)
    return with_captions(f"captions:{name}:{split or 'train'}", data, train)


def _canonical(spec: str) -> str:
    """Return NAME of a known set in lower case, and folder:PATH for the path of a folder."""
    name, colon, split = spec.partition(":")
    if name.lower() in LOADERS:
        return f"{name.lower()}{colon}{split}"
    start, _, last = spec.rpartition(":")
    path = start if last in SPLITS and not Path(spec).exists() else spec
    return f"folder:{spec}" if path and Path(path).expanduser().is_dir() else spec


def _by_name(spec: str) -> Dataset:
    name, colon, split = spec.partition(":")
    if name not in LOADERS:
        if spec.endswith(".npz"):
            return load_npz(spec)
        path, _, last = spec.rpartition(":")
        if path.endswith(".npz"):
            return load_npz(path, last)
        raise InputError(_unknown(name))
    if colon and split not in SPLITS:
        raise InputError(f"{spec}: no split {split!r}: the splits are {', '.join(SPLITS)}")
    return LOADERS[name](split or "train")


def _as_asked(data: Dataset | Stream, options: DataOptions) -> Dataset | Stream:
    """Arrays of images, resized and in grey if the options say so."""
    if options.size is None and not options.grey:
        return data
    if not isinstance(data, Dataset) or "image" not in data.arrays:
        raise InputError(f"{data.name}: --size and --grey are for images that fit in memory")
    images = data.arrays["image"]
    if options.grey and images.shape[3] == 3:
        images = np.stack([to_grey(image) for image in images])
    images = np.stack([resized(image, options) for image in images])
    return Dataset(data.name, {**data.arrays, "image": images}, data.classes)


def _split_folder(path: str) -> Path:
    """PATH or PATH:SPLIT."""
    start, colon, split = path.rpartition(":")
    if colon and split in SPLITS and not Path(path).exists():
        if not (Path(start) / split).is_dir():
            raise InputError(f"folder:{path}: {start} has no folder {split}")
        return Path(start) / split
    splits = [name for name in _SPLIT_FOLDERS if (Path(path) / name).is_dir()]
    if "train" in splits and len(splits) > 1:  # else they would be classes
        raise InputError(
            f"folder:{path} has folders {' and '.join(splits)}: say which, folder:{path}:train"
        )
    return Path(path)


def _unknown(name: str) -> str:
    path = Path(name)
    if path.is_file():
        if path.suffix.lower() in SUFFIXES:
            return f"{name} is one image: pass its folder, {path.parent}"
        return f"{name} is neither .npz nor .npy: save an array with np.save, or pass a folder"
    known = {each.lower(): each for each in (*names(), *_beside(path))}
    close = difflib.get_close_matches(str(path).lower(), known, n=1) if name else []
    guess = f" did you mean {known[close[0]]!r}?" if close else ""
    return (
        f"no data set, file or folder {name!r}:{guess} there are {', '.join(names())}, paths of "
        "folders and of .npz and .npy files, and folder: pairs: halves: unpaired: "
        "captions: edges: grey: tfds:"
    )


def _beside(path: Path) -> list[str]:
    """Return the paths of folders and arrays where `path` would lie."""
    if not path.name or not path.parent.is_dir():
        return []
    return [str(p) for p in path.parent.iterdir() if p.is_dir() or p.suffix in (".npz", ".npy")]
