"""Arrays of PyTorch's .pth files, read without PyTorch and without unpickling anything else.

A .pth file is a pickle of a dict of tensors beside their numbers: a zip archive (data.pkl, data/0,
...) since PyTorch 1.6, before that one stream (magic number, version, machine, the pickle, the
keys of the storages, the storages). A pickle is a program, and may call any function that it names.
Here it is checked opcode by opcode before it runs, and may name the few constructors below only, of
which this module has its own: nothing of PyTorch or of other modules is imported or called.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gengen.types import InputError

MOST_BYTES = 2**30  # of a file, and of all arrays in it
MOST_PICKLE = 2**24  # bytes of the pickle, without the numbers
_MAGIC = 0x1950A86A20F9469CFC6C  # of files before PyTorch 1.6
_PROTOCOL = 1001  # of them
_DTYPES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8",
    "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1",
    "BoolStorage": "?",
}  # fmt: skip
_REBUILD = ("torch._utils", "_rebuild_tensor_v2")
_OLDER_REBUILD = ("torch._utils", "_rebuild_tensor")
_PARAMETER = ("torch._utils", "_rebuild_parameter")
_ORDERED = ("collections", "OrderedDict")
_NAMES = {_REBUILD, _OLDER_REBUILD, _PARAMETER, _ORDERED} | {("torch", name) for name in _DTYPES}
# What a pickle of tensors in dicts is made of. Left out: extensions, instances, buffers, frames.
_OPCODES = {
    "PROTO", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT",
    "BININT1", "BININT2", "LONG", "LONG1", "BINFLOAT", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
    "BINSTRING", "SHORT_BINSTRING", "STRING", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
    "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "PUT",
    "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET", "GLOBAL", "REDUCE", "BUILD",
    "BINPERSID",
}  # fmt: skip


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Return the arrays of a .pth file of a dict of tensors, by name.

    Args:
        path: of the file, up to `MOST_BYTES`.

    Raises:
        InputError: if it is missing, damaged, or holds anything but tensors in a dict.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if path.stat().st_size > MOST_BYTES:
                raise _Refused(f"it has more than {MOST_BYTES} bytes")
            zipped = zipfile.is_zipfile(file)
            file.seek(0)
            found = _of_zip(file) if zipped else _of_stream(file)
        return _arrays(found)
    except Exception as error:  # of no fixed class: pickle's, zip's, struct's
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        line = " ".join(str(error).split())[:160]
        raise InputError(f"{path} is not a PyTorch file of arrays alone ({line})") from None


class _Refused(ValueError):
    """A file that holds what arrays need not."""


class _Storage:
    """Numbers of one type, which may be filled in after the tensors that look at them."""

    def __init__(self, dtype: str, count: int) -> None:
        if count < 0 or count * np.dtype(dtype).itemsize > MOST_BYTES:
            raise _Refused(f"a storage of {count} numbers")
        self.dtype, self.count = np.dtype(dtype), count
        self.numbers: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize

    def fill(self, content: bytes) -> None:
        if len(content) != self.nbytes:
            raise _Refused(f"{len(content)} bytes for a storage of {self.nbytes}")
        self.numbers = np.frombuffer(content, self.dtype)


class _Tensor:
    """A view of a storage, in PyTorch's terms."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> None:
        whole = (offset, *size, *stride)
        if not isinstance(storage, _Storage) or any(type(n) is not int or n < 0 for n in whole):
            raise _Refused("a tensor of no storage or of negative sizes")
        if len(size) != len(stride) or len(size) > 16:
            raise _Refused(f"a tensor of sizes {size} and strides {stride}")
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def array(self) -> np.ndarray:
        """Return a copy, in C order."""
        numbers, count = self.storage.numbers, int(np.prod(self.size, dtype=object))
        steps = zip(self.size, self.stride, strict=True)
        last = self.offset + sum((n - 1) * step for n, step in steps)
        if numbers is None or count > len(numbers) or (count and last >= len(numbers)):
            raise _Refused(f"a tensor {list(self.size)} reaches beyond its storage")
        strides = tuple(step * numbers.itemsize for step in self.stride)
        view = np.lib.stride_tricks.as_strided(
            numbers[self.offset :], self.size, strides, writeable=False
        )
        return np.array(view if count else np.empty(self.size, numbers.dtype), order="C")


def _arrays(found: Any) -> dict[str, np.ndarray]:
    if not isinstance(found, Mapping):
        raise _Refused("it holds no dict of tensors")
    arrays, total = {}, 0
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise _Refused(f"{str(name)[:40]!r} is no tensor")
        arrays[name] = tensor.array()
        total += arrays[name].nbytes
        if total > MOST_BYTES:
            raise _Refused("its arrays overlap to more than the file has")
    return arrays


# --- the pickle -----------------------------------------------------------------------------------


def _check(program: Any) -> None:
    """Refuse opcodes that tensors in dicts do not need; leaves the stream behind the pickle."""
    start = program.tell()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(program)):
        if opcode.name not in _OPCODES:
            raise _Refused(f"its pickle has the opcode {opcode.name}")
        if opcode.name == "GLOBAL" and tuple(str(argument).split(" ")) not in _NAMES:
            raise _Refused(f"its pickle names {argument}")
        # A memo is as long as its largest index: one that is skipped to would take the memory.
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= count:
            raise _Refused("its pickle skips in its memo")
        if program.tell() - start > MOST_PICKLE:
            raise _Refused(f"its pickle has more than {MOST_PICKLE} bytes")


class _Unpickler(pickle.Unpickler):
    """Builds dicts, numbers, texts and `_Tensor`; `storages` by key."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (_REBUILD, _OLDER_REBUILD):
            return lambda *args: _Tensor(*args)
        if (module, name) == _PARAMETER:
            return lambda tensor, *rest: tensor
        if (module, name) == _ORDERED:
            return type("OrderedDict", (dict,), {})  # its own: a pickle may set attributes
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise _Refused(f"its pickle names {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise _Refused("its pickle refers to something that is no storage")
        _, dtype, key, _, count = pid[:5]
        if dtype not in _DTYPES.values() or type(key) is not str or type(count) is not int:
            raise _Refused("its pickle refers to a storage of no known type")
        if len(pid) == 6 and pid[5] is not None:
            raise _Refused("a storage is a part of another")
        known = self.storages.setdefault(key, _Storage(dtype, count))
        if (known.dtype, known.count) != (np.dtype(dtype), count):
            raise _Refused(f"two storages are called {key[:40]!r}")
        return known


def _load(program: Any) -> tuple[Any, dict[str, _Storage]]:
    start = program.tell()
    _check(program)
    end = program.tell()
    program.seek(start)
    unpickler = _Unpickler(io.BytesIO(program.read(end - start)))
    found = unpickler.load()
    return found, unpickler.storages


def _of_zip(file: Any) -> Any:
    with zipfile.ZipFile(file) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        if sum(info.file_size for info in infos.values()) > MOST_BYTES or any(
            info.compress_type != zipfile.ZIP_STORED for info in infos.values()
        ):
            raise _Refused("its archive is compressed or too large")
        programs = [name for name in infos if name.endswith("/data.pkl")]
        if len(programs) != 1:
            raise _Refused("its archive has no data.pkl")
        folder = programs[0].removesuffix("data.pkl")
        order = infos.get(f"{folder}byteorder")
        if order is not None and archive.read(order) != b"little":
            raise _Refused("its numbers are not little-endian")
        found, storages = _load(io.BytesIO(archive.read(programs[0])))
        for key, storage in storages.items():
            storage.fill(archive.read(f"{folder}data/{key}"))
    return found


def _of_stream(file: Any) -> Any:
    magic, protocol, machine = (_load(file)[0] for _ in range(3))
    if magic != _MAGIC or protocol != _PROTOCOL or not machine.get("little_endian", True):
        raise _Refused("its first bytes are not PyTorch's")
    found, storages = _load(file)
    keys = _load(file)[0]
    if not isinstance(keys, list) or set(keys) != set(storages) or len(keys) != len(storages):
        raise _Refused("its storages are not those of its tensors")
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        if count != storages[key].count:
            raise _Refused(f"a storage of {count} numbers, not {storages[key].count}")
        storages[key].fill(file.read(storages[key].nbytes))
    return found
