"""A user's own arrays, from an .npz or .npy file that nothing is known of beforehand.

Never unpickled, and nothing is allocated on the word of a header: the zip directory, the header of
each array and the size of the file on disk must agree first.
"""

from __future__ import annotations

import hashlib
import math
import warnings
import zipfile
import zlib
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from gengen.data.arrays import to_data, to_labels
from gengen.data.dataset import Dataset
from gengen.data.memory import MAX_DEFLATE_RATIO, check_fits, is_resident
from gengen.data.stream import HostBatch, Stream
from gengen.types import InputError

MAX_HEADER = 2**16  # bytes of an array's header: format 1.0 has room for no more

# The first name found is read.
DATA_NAMES = ("image", "images", "arr_0", "x", "data")
LABEL_NAMES = ("label", "labels", "y")
# With a split in their names, as files for Keras and of MedMNIST have them.
SPLIT_DATA_NAMES = ("x_{}", "X_{}", "{}_images", "{}_x")
SPLIT_LABEL_NAMES = ("y_{}", "{}_labels", "{}_y")

# What the standard library and NumPy raise on a damaged file.
_BROKEN = (
    OSError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    OverflowError,
    NotImplementedError,
)


class _Header(NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype


def load_npz(path: str | Path, split: str | None = None) -> Dataset:
    """Read a data set from an .npz file, as `np.savez` and `np.savez_compressed` write it.

    The data are the array image, images, arr_0, x or data, whichever comes first in this row; the
    labels, optional, the array label, labels or y. `gengen.data.arrays` says what they may be. Of a
    file with splits the data are x_train or train_images, the labels y_train or train_labels.

    Args:
        path: the file.
        split: train, test, val, ...; None: train, where the names of the arrays have splits.

    Returns:
        a data set with the path as its name, and the split if there is one.

    Raises:
        InputError: in one line that names the file, the array, the cause and the cure.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file: check the path")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {
                info.filename.removesuffix(".npy"): info
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
            data_name, label_name, split = _names(path, set(members), split)
            data = _read(path, archive, members[data_name])
            label = None if label_name is None else _read(path, archive, members[label_name])
    except InputError:
        raise
    except _BROKEN as error:
        raise InputError(
            f"{path}: not a whole .npz file ({error}): save it again with np.savez"
        ) from error
    key, array = to_data(f"{path}: array {data_name}", data)
    arrays, classes = {key: array}, None
    if label is not None:
        where = f"{path}: array {label_name}"
        arrays["label"], classes = to_labels(where, label, len(array))
    return Dataset(f"{path}:{split}" if split else str(path), arrays, classes)


def _names(path: Path, found: set[str], split: str | None) -> tuple[str, str | None, str | None]:
    """Return the names of the data and of the labels, None without any, and the split."""

    def first(names: tuple[str, ...], of: str = "") -> str | None:
        return next((name for each in names if (name := each.format(of)) in found), None)

    data = first(DATA_NAMES) if split is None else None
    if data is not None:
        return data, first(LABEL_NAMES), None
    data = first(SPLIT_DATA_NAMES, split or "train")
    if data is not None:
        split = split or "train"
        return data, first(SPLIT_LABEL_NAMES, split), split
    there = f"there is: {', '.join(sorted(found)) or 'none at all'}"
    if split is not None:
        raise InputError(f"{path}:{split}: no array named x_{split} or {split}_images ({there})")
    raise InputError(
        f"{path}: no array named {', '.join(DATA_NAMES)} ({there}): save as np.savez(path, "
        "image=...) or x=..."
    )


def load_npy(path: str | Path, stream: bool | None = None) -> Dataset | Stream:
    """Read a data set from an .npy file, as `np.save` writes it: data as in `load_npz`, no labels.

    What memory does not hold is read from the disk row by row: uint8 images and float32 vectors,
    which need no conversion.

    Args:
        path: the file.
        stream: read it so in any case, or in none.

    Raises:
        InputError: as `load_npz`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file: check the path")
    try:
        with open(path, "rb") as file:
            header, start = _read_header(file), file.tell()
        num_bytes = math.prod(header.shape) * header.dtype.itemsize
        on_disk = path.stat().st_size - start
        if header.dtype.hasobject:
            raise InputError(f"{path} holds Python objects, and pickles are never loaded")
        if num_bytes != on_disk:
            raise InputError(
                f"{path} has a header for {num_bytes} bytes of data, but {on_disk} are there: save "
                "it again with np.save"
            )
        if num_bytes and (not is_resident(num_bytes) if stream is None else stream):
            return _streamed(path, header)
        check_fits(num_bytes, str(path))
        values = np.fromfile(path, header.dtype, offset=start)
        array = values.reshape(header.shape, order="F" if header.fortran else "C")
    except InputError:
        raise
    except _BROKEN as error:
        cause = " ".join(str(error).split())[:120]
        raise InputError(f"{path} is no whole .npy file ({cause}): save it with np.save") from error
    key, data = to_data(str(path), array)
    return Dataset(str(path), {key: data}, source=_sha256(path))


class NpyReader:
    """rows [B] -> those rows of an .npy file, mapped into memory when first asked."""

    def __init__(self, path: Path, key: str):
        self.path, self.key = path, key
        self._array: np.ndarray | None = None

    def __getstate__(self) -> dict:  # to a worker goes the path, not what is mapped
        return {"path": self.path, "key": self.key, "_array": None}

    def __call__(self, rows: np.ndarray) -> HostBatch:
        """Read rows."""
        if self._array is None:
            self._array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        assert self._array is not None
        batch = np.asarray(self._array[rows])
        if self.key == "image" and batch.ndim == 3:
            batch = batch[..., None]
        if self.key == "x" and not np.isfinite(batch).all():
            raise InputError(f"{self.path} holds NaN or infinity: remove those examples")
        return {self.key: np.ascontiguousarray(batch)}


def _streamed(path: Path, header: _Header) -> Stream:
    is_image = header.dtype == np.uint8 and len(header.shape) in (3, 4)
    if not is_image and not (header.dtype == np.dtype("<f4") and len(header.shape) == 2):
        raise InputError(
            f"{path} is {header.dtype} {list(header.shape)}: only uint8 [N, H, W, C] or [N, H, W] "
            "and float32 [N, D] are read while training: convert it, or make it smaller"
        )
    shape = header.shape[1:] if len(header.shape) != 3 else (*header.shape[1:], 1)
    reader = NpyReader(path.absolute(), "image" if is_image else "x")
    return Stream(str(path), reader, header.shape[0], shape, _sha256(path))


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    where = f"{path}: array {info.filename.removesuffix('.npy')}"
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{where} is encrypted or oddly compressed: save it again with np.savez")
    try:
        with archive.open(info) as file:
            header = _read_header(file)
            if header.dtype.hasobject:
                raise InputError(
                    f"{where} holds Python objects, and pickles are never loaded: save numbers "
                    "(rows of differing lengths make objects)"
                )
            num_bytes = math.prod(header.shape) * header.dtype.itemsize
            _check_size(where, path, info, num_bytes, num_bytes + file.tell())
            # Reading to the end also checks the CRC.
            values = np.frombuffer(file.read(), header.dtype)
            return values.reshape(header.shape, order="F" if header.fortran else "C")
    except InputError:
        raise
    except _BROKEN as error:
        cause = " ".join(str(error).split())[:120]  # NumPy's messages have several lines
        raise InputError(f"{where} is broken ({cause}): save it again with np.savez") from error


class _Bounded:
    """A file that is read a header's length at a time, whatever length the header claims."""

    def __init__(self, file: IO[bytes] | BufferedIOBase):
        self.file = file

    def read(self, size: int) -> bytes:
        if size > MAX_HEADER:  # NumPy would read it all, then refuse it
            raise ValueError(f"header of {size} bytes")
        return self.file.read(size)


def _read_header(file: IO[bytes] | BufferedIOBase) -> _Header:
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }  # (3, 0) is for field names in Unicode
    try:
        with warnings.catch_warnings(action="error"):  # NumPy mends Python 2's headers aloud
            bounded: Any = _Bounded(file)
            header = _Header(*readers[np.lib.format.read_magic(bounded)](bounded))
    except Exception as error:  # NumPy parses Python literals: a hostile one raises anything
        raise ValueError(f"bad header: {error}") from error
    if any(size < 0 for size in header.shape):
        raise ValueError(f"shape {header.shape}")
    return header


def _check_size(
    where: str, path: Path, info: zipfile.ZipInfo, num_bytes: int, with_header: int
) -> None:
    if with_header != info.file_size:
        raise InputError(
            f"{where} has a header for {num_bytes} bytes of data, but its member of the zip has "
            f"{info.file_size} with the header: save it again with np.savez"
        )
    # The directory of the zip may lie as well; the size on disk cannot.
    on_disk = path.stat().st_size
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    most = on_disk * MAX_DEFLATE_RATIO if deflated else on_disk
    if with_header > most:
        raise InputError(
            f"{where} claims {with_header} bytes, more than a file of {on_disk} bytes can hold: "
            "save it again with np.savez"
        )
    check_fits(num_bytes, where)
