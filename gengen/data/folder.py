"""Folders of images: one file, one example; class sub-folders become labels."""

from __future__ import annotations

import hashlib
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from gengen.data.dataset import Dataset
from gengen.data.images import SUFFIXES, BadImage, content_of, decode, header
from gengen.data.memory import check_fits, is_resident
from gengen.data.options import DataOptions
from gengen.data.stream import HostBatch, Stream
from gengen.types import InputError, Shape

THREADS = min(8, 2 * (os.cpu_count() or 1))  # Pillow decodes without holding Python's lock


def load_folder(name: str, path: str | Path, options: DataOptions) -> Dataset | Stream:
    """The images under a folder, in the order of their paths.

    If all of them lie in sub-folders, each sub-folder of `path` is a class, in alphabetical order.
    Images are grey if all of them are, or by `options.grey`; else colour.

    Raises:
        InputError: if there is no image, one cannot be read, or their sizes differ and
            `options.size` is not given.
    """
    folder = Path(path)
    files = image_files(folder)
    scan = scan_images(folder, files, options)
    parts = [file.relative_to(folder).parts for file in scan.files]
    classes, labels = None, None
    if all(len(part) > 1 for part in parts):
        classes = tuple(sorted({part[0] for part in parts}))
        number = {c: i for i, c in enumerate(classes)}
        labels = np.array([number[part[0]] for part in parts], np.int32)
    reader = FolderReader({"image": scan.files}, labels, options, scan.shape[2] == 1)
    stream = Stream(name, reader, len(scan.files), scan.shape, scan.fingerprint, classes)
    return as_data(stream, options)


def image_files(folder: Path) -> list[Path]:
    """All images under a folder, hidden ones aside, in the order of their relative paths."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder: check the path")
    found = [
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in SUFFIXES
        and p.is_file()
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    ]
    if not found:
        raise InputError(_no_image(folder))
    return sorted(found, key=lambda p: p.relative_to(folder).as_posix())


def _no_image(folder: Path) -> str:
    kinds = " ".join(suffix[1:] for suffix in SUFFIXES)
    array = next((p for p in sorted(folder.glob("*")) if p.suffix in (".npz", ".npy")), None)
    cure = "" if array is None else f"; did you mean the array {array}?"
    return f"{folder} holds no image ({kinds}){cure}"


class Scan(NamedTuple):
    """The result of opening every file."""

    files: list[Path]  # without the bad ones that are skipped
    shape: Shape  # of one example, once read
    fingerprint: str


class _Found(NamedTuple):
    height: int
    width: int
    grey: bool
    sha256: str


def scan_images(folder: Path, files: Sequence[Path], options: DataOptions) -> Scan:
    """Look at every file: its header, or all of it where bad ones are to be skipped."""

    def look(file: Path) -> _Found | BadImage:
        try:
            content = content_of(file)
            if options.skip_bad_images:
                decode(content, options, grey=False)
            return _Found(*header(content), hashlib.sha256(content).hexdigest())
        except BadImage as error:
            return error

    found = dict(zip(files, _in_threads(look, files, f"reading {folder}"), strict=True))
    bad = {file: why for file, why in found.items() if isinstance(why, BadImage)}
    if bad:
        first = next(iter(bad))
        if not options.skip_bad_images:
            raise InputError(
                f"{first} cannot be read ({bad[first]}): mend or remove it, or pass "
                f"--skip-bad-images{f' ({len(bad)} files are bad)' if len(bad) > 1 else ''}"
            )
        for file, why in bad.items():
            tqdm.write(f"gengen: {file} is skipped ({why})", file=sys.stderr)
    good = {file: seen for file, seen in found.items() if isinstance(seen, _Found)}
    if not good:
        raise InputError(f"{folder}: none of its {len(bad)} images can be read")
    channels = 1 if options.grey or all(seen.grey for seen in good.values()) else 3
    height, width = _common_size(good, options)
    digest = hashlib.sha256(f"{options.size} {options.crop} {channels}\n".encode())
    for file, seen in good.items():
        digest.update(f"{file.relative_to(folder).as_posix()} {seen.sha256}\n".encode())
    return Scan(list(good), (height, width, channels), digest.hexdigest())


def _common_size(found: dict[Path, _Found], options: DataOptions) -> tuple[int, int]:
    if options.size is not None:
        return options.size, options.size
    sizes = {(seen.height, seen.width): file for file, seen in found.items()}
    if len(sizes) > 1:
        small, *_, large = sorted(sizes, key=math.prod)
        # A power of 2 that enlarges no image, and that a first model can be trained at.
        size = min(64, 2 ** (min(map(min, sizes)).bit_length() - 1))
        raise InputError(
            f"images have {len(sizes)} sizes, from {small[1]} x {small[0]} pixels "
            f"({sizes[small]}) to {large[1]} x {large[0]} ({sizes[large]}): pass --size, such as "
            f"--size {size}, to bring all to one"
        )
    return next(iter(sizes))


@dataclass(frozen=True)
class FolderReader:
    """rows [B] -> the images of those files; what a worker process is given.

    Attributes:
        files: by array: "image", and of pairs "target".
        labels: of the rows, or None.
        options: how images are read.
        grey: whether they are read as grey.
        cut: (array, file's pixels) -> the part that is meant, where a file holds two images.
    """

    files: dict[str, list[Path]]
    labels: np.ndarray | None
    options: DataOptions
    grey: bool
    cut: Callable[[str, np.ndarray], np.ndarray] | None = None

    def __call__(self, rows: np.ndarray) -> HostBatch:
        batch = {
            name: np.stack([self.read(name, files[row]) for row in rows.tolist()])
            for name, files in self.files.items()
        }
        return batch if self.labels is None else batch | {"label": self.labels[rows]}

    def read(self, name: str, file: Path) -> np.ndarray:
        """One image of one file.

        Raises:
            InputError: if it has become unreadable since it was looked at.
        """
        try:
            content = content_of(file)
            if self.cut is None:
                return decode(content, self.options, self.grey)
            return self.cut(name, decode(content, DataOptions(), self.grey))
        except BadImage as error:
            raise InputError(
                f"{file} cannot be read ({error}): mend or remove it, or pass --skip-bad-images"
            ) from None


def as_data(stream: Stream, options: DataOptions, images: int = 1) -> Dataset | Stream:
    """Read whole if memory holds it, or as `options.stream` says; else the stream itself.

    Args:
        stream: of images.
        options: whether to stream.
        images: of one shape, that each example has: 2 of pairs.
    """
    num_bytes = len(stream) * images * math.prod(stream.shape)
    if not is_resident(num_bytes) if options.stream is None else options.stream:
        return stream
    check_fits(num_bytes, stream.name)
    chunks = np.array_split(np.arange(len(stream)), math.ceil(len(stream) / 64))
    read = _in_threads(stream.read, chunks, f"decoding {stream.name}")
    arrays = {key: np.concatenate([part[key] for part in read]) for key in read[0]}
    return Dataset(stream.name, arrays, stream.classes, stream.fingerprint)


def _in_threads(function: Callable[[Any], Any], items: Sequence[Any], what: str) -> list[Any]:
    # Pillow warns of what it mends (metadata, mostly); what it cannot mend is a BadImage.
    with ThreadPoolExecutor(THREADS) as pool, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        done = pool.map(function, items)
        return list(tqdm(done, what, len(items), leave=False, disable=None, delay=1))
