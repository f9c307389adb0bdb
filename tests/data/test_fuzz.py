"""Files nobody vouches for: a loader gives a valid data set, or one line that says what is wrong.

Valid files are mutated: bits flipped, bytes cut, repeated, spliced and overwritten with sizes that
lie. Whatever comes of it, nothing but `InputError` is raised, nothing is unpickled, and no more is
allocated than the bound below.
"""

import io
import os
import tempfile
import tracemalloc
import warnings
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from PIL import Image

from gengen.data import Dataset, load
from gengen.data.idx import read_idx
from gengen.types import InputError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 6, 4, 3), dtype=np.uint8)
VECTORS = RNG.normal(size=(7, 3)).astype(np.float32)
PIXELS = 2**20  # the limit of an image's pixels, in the place of 2^26
MOST = 32 * 2**20  # bytes at once: some copies of that many pixels in colour, as floats even
OUTCOMES: Counter = Counter()


class Trap:
    """Makes a file when unpickled: nobody may."""

    def __reduce__(self):
        return (os.system, (f"touch {tempfile.gettempdir()}/gengen-was-here",))


def npz(compressed, **arrays):
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def npy(array, pickled=False):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=pickled)
    return file.getvalue()


def idx(array):
    with tempfile.TemporaryDirectory() as folder:
        from gengen.data.idx import write_idx

        write_idx(Path(folder) / "a.gz", array)
        return (Path(folder) / "a.gz").read_bytes()


def picture(kind, mode="RGB"):
    file = io.BytesIO()
    Image.fromarray(IMAGES[0]).convert(mode).save(file, kind)
    return file.getvalue()


LABELS = np.arange(5)
SEEDS = [
    ("x.npz", npz(False, image=IMAGES, label=LABELS)),
    ("x.npz", npz(True, image=IMAGES, label=LABELS)),
    ("x.npz", npz(False, x=VECTORS)),
    ("x.npy", npy(IMAGES)),
    ("x.npy", npy(VECTORS)),
    ("x.npy", npy(np.array([Trap()]), pickled=True)),
    ("x.idx", idx(IMAGES[..., 0])),
    ("x.idx", zlib.decompress(idx(IMAGES[..., 0]), 31)),
    ("x.png", picture("PNG")),
    ("x.png", picture("PNG", "RGBA")),
    ("x.jpg", picture("JPEG")),
    ("x.bmp", picture("BMP")),
    ("x.tif", picture("TIFF")),
    ("x.webp", picture("WEBP")),
    ("x.ppm", picture("PPM")),
]

position = st.integers(0, 10**6)
change = st.one_of(
    st.tuples(st.just("flip"), position, st.integers(0, 7)),
    st.tuples(st.just("set"), position, st.sampled_from([0, 1, 0x7F, 0x80, 0xFF])),
    st.tuples(st.just("size"), position, st.sampled_from([2**16, 2**24, 2**31 - 1, 2**32 - 1])),
    st.tuples(st.just("cut"), position, st.integers(1, 64)),
    st.tuples(st.just("end"), position, st.just(0)),
    st.tuples(st.just("repeat"), position, st.integers(1, 64)),
    st.tuples(st.just("digits"), position, st.integers(10, 10**18)),
)


def mutated(valid: bytes, changes) -> bytes:
    data = bytearray(valid)
    for kind, where, value in changes:
        at = where % max(1, len(data))
        if kind == "flip" and data:
            data[at] ^= 1 << value
        elif kind == "set" and data:
            data[at] = value
        elif kind == "size":
            data[at : at + 4] = value.to_bytes(4, "big" if where % 2 else "little")
        elif kind == "cut":
            del data[at : at + value]
        elif kind == "end":
            del data[at:]
        elif kind == "repeat":
            data[at:at] = data[at : at + value]
        elif kind == "digits":  # a shape in an array's header
            start = next((i for i in range(at, len(data)) if chr(data[i]).isdigit()), at)
            data[start : start + 1] = str(value).encode()
    return bytes(data)


def with_checksum(name: str, data: bytes) -> bytes:
    """A zip's CRCs mended, so that what lies behind them is reached."""
    if not name.endswith(".npz"):
        return data
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {}
            for info in archive.infolist():
                archive_bytes = data[info.header_offset : info.header_offset + 10**6]
                members[info.filename] = archive_bytes[30 + len(info.filename) :][: info.file_size]
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        return file.getvalue()
    except Exception:
        return data


def check(name: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set" / name
        path.parent.mkdir()
        path.write_bytes(data)
        tracemalloc.start()
        try:
            if name.endswith(".idx"):
                assert read_idx(path, rank=3).dtype == np.uint8
            else:
                is_array = name.endswith((".npz", ".npy"))
                found = load(str(path) if is_array else f"folder:{path.parent}")
                assert isinstance(found, Dataset) and len(found) >= 1
            OUTCOMES["read"] += 1
        except InputError as error:
            assert "\n" not in str(error), error
            OUTCOMES["refused"] += 1
        finally:
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert most < MOST, f"{most} bytes for {name}"
    assert not Path(tempfile.gettempdir(), "gengen-was-here").exists()


@pytest.fixture(autouse=True)
def fewer_pixels(monkeypatch):
    monkeypatch.setattr("gengen.data.images.MAX_PIXELS", PIXELS)


def fuzz(num):
    @settings(
        max_examples=num, derandomize=True, deadline=None, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )  # fmt: skip
    @given(st.sampled_from(SEEDS), st.lists(change, min_size=1, max_size=4), st.booleans())
    def run(seed, changes, mend):
        name, data = seed
        data = mutated(data, changes)
        check(name, with_checksum(name, data) if mend else data)

    return run


def test_valid_files_are_read():
    for name, data in SEEDS:
        if b"posix" in data or b"system" in data:
            with pytest.raises(AssertionError):  # the trap is refused, not read
                OUTCOMES.clear()
                check(name, data)
                assert OUTCOMES["read"]
        else:
            OUTCOMES.clear()
            check(name, data)
            assert OUTCOMES["read"], name


def test_mutated_files():
    OUTCOMES.clear()
    fuzz(400)()
    assert min(OUTCOMES["read"], OUTCOMES["refused"]) > 20, OUTCOMES


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_twenty_thousand_mutated_files():
    OUTCOMES.clear()
    fuzz(20_000)()
    assert sum(OUTCOMES.values()) >= 19_000, OUTCOMES  # hypothesis may end early, never by much
    print(OUTCOMES)


def test_a_deep_header_is_no_recursion():
    data = bytearray(npy(VECTORS))
    head = b"{'descr': " + b"(" * 4000 + b"}"
    data[8:10] = len(head).to_bytes(2, "little")
    with warnings.catch_warnings():
        check("x.npy", bytes(data[:10]) + head)
