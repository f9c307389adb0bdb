"""Two images an example: paired for image-to-image models, unpaired for translation.

    pairs:A,B        two folders whose files have the same names: A's is the input, B's the target
    halves:A         one image, cut in the middle: the left half is the input, the right the target;
                     halves:A:right the other way round
    unpaired:X,Y     any two image sets; no example of one belongs to one of the other

A comma inside of a path is written twice.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gengen.data.dataset import Dataset
from gengen.data.folder import FolderReader, as_data, image_files, scan_images
from gengen.data.images import resized
from gengen.data.options import DataOptions
from gengen.data.stream import HostBatch, Stream
from gengen.types import InputError


def two(spec: str, what: str) -> tuple[str, str]:
    """Split "A,B" at its one single comma."""
    parts = spec.replace(",,", "\0").split(",")
    if len(parts) != 2 or not all(parts):
        raise InputError(f"{what}:{spec}: give two, with one comma between (one in a path is ,,)")
    a, b = (part.replace("\0", ",") for part in parts)
    return a, b


def load_pairs(name: str, spec: str, options: DataOptions) -> Dataset | Stream:
    """Paired images from two folders: "image" of the first, "target" of the second.

    Raises:
        InputError: if a file of one has no namesake in the other, or they differ in size.
    """
    folders = [Path(part) for part in two(spec, "pairs")]
    files = [_by_name(folder) for folder in folders]
    lonely = sorted(files[0].keys() ^ files[1].keys())
    if lonely:
        here, there = folders if lonely[0] in files[0] else folders[::-1]
        raise InputError(f"{here / lonely[0]} has no namesake in {there}: remove it, or add one")
    names = sorted(files[0])
    # A bad file of one is skipped with its partner.
    scans = [
        scan_images(d, [f[n] for n in names], options) for d, f in zip(folders, files, strict=True)
    ]
    good = [{_stem(d, p) for p in s.files} for d, s in zip(folders, scans, strict=True)]
    names = [n for n in names if n in good[0] & good[1]]
    if not names:
        raise InputError(f"{name}: no pair is left whose images can both be read")
    if scans[0].shape[:2] != scans[1].shape[:2]:
        raise InputError(
            f"{name}: sizes {scans[0].shape[:2]} and {scans[1].shape[:2]}: pass --size"
        )
    grey = scans[0].shape[2] == scans[1].shape[2] == 1
    shape = (*scans[0].shape[:2], 1 if grey else 3)
    both = {key: [f[n] for n in names] for key, f in zip(("image", "target"), files, strict=True)}
    digest = hashlib.sha256(
        "\n".join([scans[0].fingerprint, scans[1].fingerprint, *names]).encode()
    )
    reader = FolderReader(both, None, options, grey)
    stream = Stream(name, reader, len(names), shape, digest.hexdigest(), target_shape=shape)
    return as_data(stream, options, 2)


def _stem(folder: Path, file: Path) -> str:
    return file.relative_to(folder).with_suffix("").as_posix()


def _by_name(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in image_files(folder):
        other = found.setdefault(_stem(folder, file), file)
        if other is not file:
            raise InputError(f"{other} and {file} have one name: a pair is matched by it")
    return found


def load_halves(name: str, path: str, options: DataOptions) -> Dataset | Stream:
    """Paired images from one folder: one half of each is "image", the other "target".

    Args:
        name: of the set.
        path: PATH, or PATH:SIDE, left or right: which half is "image" (left).
        options: how images are read.
    """
    folder, side = Path(path), "left"
    start, _, end = path.rpartition(":")
    if end in ("left", "right") and not folder.exists():
        folder, side = Path(start), end
    plain = DataOptions(grey=options.grey, skip_bad_images=options.skip_bad_images)
    scan = scan_images(folder, image_files(folder), plain)
    height, width, channels = scan.shape
    if width % 2:
        raise InputError(f"{folder}: images are {width} pixels wide, which cannot be halved")
    size = options.size
    shape = (height, width // 2, channels) if size is None else (size, size, channels)
    half = Half("image" if side == "left" else "target", options)
    reader = FolderReader(
        {"image": scan.files, "target": scan.files}, None, options, channels == 1, half
    )
    digest = hashlib.sha256(f"halves {side} {size} {options.crop} {scan.fingerprint}".encode())
    stream = Stream(name, reader, len(scan.files), shape, digest.hexdigest(), target_shape=shape)
    return as_data(stream, options, 2)


@dataclass(frozen=True)
class Half:
    """(array's name, pixels) -> its half of them, resized.

    Attributes:
        left: the array that the left half is for.
        options: how it is resized.
    """

    left: str
    options: DataOptions

    def __call__(self, name: str, pixels: np.ndarray) -> np.ndarray:
        middle = pixels.shape[1] // 2
        half = pixels[:, :middle] if name == self.left else pixels[:, middle:]
        return resized(half, self.options)


def unpaired(name: str, a: Dataset | Stream, b: Dataset | Stream) -> Dataset | Stream:
    """Two image sets side by side: "image" (and "label") of a, "other" ("other_label") of b.

    They may differ in size and channels; a stream if one of them is.

    Raises:
        InputError: if one is not of images.
    """
    for each in (a, b):
        if len(each.shape) != 3 or (isinstance(each, Dataset) and "image" not in each.arrays):
            raise InputError(f"{name}: both must be sets of images, but {each.name} is not")
    marks = [getattr(each, "source", None) or each.fingerprint for each in (a, b)]
    source = hashlib.sha256("\n".join(["unpaired", *marks]).encode()).hexdigest()
    if not isinstance(a, Dataset) or not isinstance(b, Dataset):
        return Stream(
            name, Both(a, b), len(a), a.shape, source, a.classes, len(b), other_shape=b.shape
        )
    arrays = {k: v for k, v in a.arrays.items() if k in ("image", "label")}
    arrays |= {"other": b.arrays["image"]}
    if "label" in b.arrays:
        arrays["other_label"] = b.arrays["label"]
    return Dataset(name, arrays, a.classes, source)


@dataclass(frozen=True, eq=False)
class Both:
    """Rows [B, 2], or [B] as in `Dataset.read` -> the examples of two sets.

    Attributes:
        a: first set.
        b: second set.
    """

    a: Dataset | Stream
    b: Dataset | Stream

    def __call__(self, rows: np.ndarray) -> HostBatch:
        first, others = (rows, rows) if rows.ndim == 1 else (rows[:, 0], rows[:, 1])
        image, other = self.a.read(first), self.b.read(others % len(self.b))
        found = {k: v for k, v in image.items() if k in ("image", "label")}
        found |= {"other": other["image"]}
        return found | ({"other_label": other["label"]} if "label" in other else {})


def one_kind(data: Dataset | Stream, kind: str) -> Dataset | Stream:
    """Return the images of one kind of pairs or of two sets, as a set of its own.

    Args:
        data: pairs, or two sets.
        kind: "image", "target" or "other".
    """
    label = "other_label" if kind == "other" else "label"
    name = data.name if kind == "image" else f"{data.name}, {kind}"
    classes = None if kind == "other" else data.classes
    if isinstance(data, Dataset):
        arrays = {"image": data.arrays[kind]}
        arrays |= {"label": data.arrays[label]} if label in data.arrays else {}
        return Dataset(name, arrays, classes)
    shapes = {"image": data.shape, "target": data.target_shape, "other": data.other_shape}
    num, shape = data.num_others if kind == "other" else len(data), shapes[kind]
    assert shape is not None
    digest = hashlib.sha256(f"{kind} {data.fingerprint}".encode()).hexdigest()
    return Stream(name, OneKind(data, kind, label), num, shape, digest, classes)


@dataclass(frozen=True, eq=False)
class OneKind:
    """Rows [B] -> the images of one kind as "image", with their labels.

    Attributes:
        data: pairs, or two sets.
        kind: name of the images there.
        label: name of their labels there.
    """

    data: Stream
    kind: str
    label: str

    def __call__(self, rows: np.ndarray) -> HostBatch:
        pair = np.stack([rows % len(self.data), rows], axis=1) if self.kind == "other" else rows
        found = self.data.read(pair)
        image = {"image": found[self.kind]}
        return image | ({"label": found[self.label]} if self.label in found else {})
