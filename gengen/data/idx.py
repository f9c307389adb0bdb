"""The idx format of MNIST and its kin, plain or gzipped.

Big-endian: two zero bytes, a type byte (0x08: uint8, the only one used here), the rank, the sizes
as uint32, then the elements row by row (http://yann.lecun.com/exdb/mnist).
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from gengen.data.memory import MAX_DEFLATE_RATIO, check_fits
from gengen.types import InputError

_UINT8 = 0x08
_GZIP_MAGIC = b"\x1f\x8b"


def read_idx(path: str | Path, rank: int) -> np.ndarray:
    """Read a file of bytes.

    Args:
        path: the file. Its first bytes, not its name, tell whether it is gzipped.
        rank: the expected number of axes, 3 of images and 1 of labels.

    Returns:
        uint8, `rank` axes.

    Raises:
        InputError: naming the file, if it is missing, of another type or rank, empty, truncated,
            longer than its header says, corrupt, or larger than memory.
    """
    path = Path(path)
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == _GZIP_MAGIC
        with gzip.open(path) if zipped else path.open("rb") as file:
            header = _read(file, 4 + 4 * rank)
            shape = _shape(path, header, rank)
            size = math.prod(shape)
            _check_size(path, size, len(header), zipped)
            data = _read(file, size + 1)  # one more: to see what is left over
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}): fetch the file again") from error
    if len(data) != size:
        found = f"ends after {len(data)}" if len(data) < size else "goes on after its"
        raise InputError(f"{path}: {found} of {size} bytes of data: fetch the file again")
    return np.frombuffer(data, np.uint8).reshape(shape)


def write_idx(path: str | Path, array: np.ndarray) -> None:
    """Write a uint8 array; gzipped if the name ends in .gz.

    Raises:
        InputError: if the array is not uint8.
    """
    if array.dtype != np.uint8:
        raise InputError(f"{path}: idx files hold uint8 here, not {array.dtype}")
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, _UINT8, array.ndim, *array.shape)
    data = header + array.tobytes()
    Path(path).write_bytes(gzip.compress(data, mtime=0) if str(path).endswith(".gz") else data)


def _read(file: BufferedIOBase, num_bytes: int) -> bytes:
    """Up to num_bytes; fewer only at the end of the file."""
    parts = []
    while num_bytes > 0 and (part := file.read(min(num_bytes, 1 << 24))):
        parts.append(part)
        num_bytes -= len(part)
    return b"".join(parts)


def _shape(path: Path, header: bytes, rank: int) -> tuple[int, ...]:
    magic = bytes([0, 0, _UINT8, rank])
    if header[:4] != magic:
        raise InputError(
            f"{path}: begins with {header[:4].hex(' ') or 'nothing'}, not {magic.hex(' ')}, so it "
            f"is no idx file of uint8 with {rank} axes: give the right file"
        )
    if len(header) < 4 + 4 * rank:
        raise InputError(f"{path}: ends within its header: fetch the file again")
    shape = struct.unpack(f">{rank}I", header[4:])
    if 0 in shape:
        raise InputError(
            f"{path}: holds no data, its header says {list(shape)}: fetch the file again"
        )
    return shape


def _check_size(path: Path, size: int, header: int, zipped: bool) -> None:
    """Whether the file can hold what its header says, before that much is asked for."""
    on_disk = path.stat().st_size
    most = on_disk * MAX_DEFLATE_RATIO if zipped else on_disk - header
    if size > most:
        raise InputError(
            f"{path}: its header says {size} bytes of data, but a file of {on_disk} bytes holds at "
            f"most {most}: fetch the file again"
        )
    check_fits(size, str(path))
