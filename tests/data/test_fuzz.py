"""Files nobody vouches for: a loader gives a valid data set, or one line that says what is wrong.

Valid files are mutated: bits flipped, bytes cut, repeated, spliced and overwritten with sizes that
lie, checksums often mended behind them. Whatever comes of it, nothing but `InputError` is raised,
nothing is unpickled, no other program is called, and no more is allocated than the bounds below.
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
from PIL.PngImagePlugin import PngInfo

from gengen.data import Dataset, load
from gengen.data.idx import read_idx
from gengen.types import InputError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 6, 4, 3), dtype=np.uint8)
VECTORS = RNG.normal(size=(7, 3)).astype(np.float32)
PIXELS = 2**20  # the limit of an image's pixels, in the place of 2^26
MOST = 32 * 2**20  # bytes at once: some copies of that many pixels in colour, as floats even
# And of the process, which sees what Pillow's C code allocates (an animated WebP takes 17 bytes a
# pixel), but also what JAX's threads and malloc's arenas do meanwhile.
MOST_RESIDENT = 96 * 2**20
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


def picture(kind, mode="RGB", **options):
    file = io.BytesIO()
    image = Image.fromarray(IMAGES[0]).convert("L" if mode == "I;16" else "RGB").convert(mode)
    if options.get("save_all"):
        options["append_images"] = [image.rotate(180)]
    image.save(file, kind, **options)
    return file.getvalue()


EXIF = Image.Exif()
EXIF[0x0112] = 6  # orientation
TEXT = PngInfo()
TEXT.add_text("k", "v" * 50, zip=True)


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
    ("x.png", picture("PNG", "P", transparency=3)),
    ("x.png", picture("PNG", "I;16", exif=EXIF, pnginfo=TEXT)),
    ("x.png", picture("PNG", save_all=True)),
    ("x.jpg", picture("JPEG")),
    ("x.jpg", picture("JPEG", "CMYK", exif=EXIF, progressive=True)),
    ("x.bmp", picture("BMP")),
    ("x.bmp", picture("BMP", "P")),
    ("x.tif", picture("TIFF")),
    ("x.tif", picture("TIFF", "F", compression="tiff_lzw")),
    ("x.tif", picture("TIFF", compression="jpeg")),
    ("x.tif", picture("TIFF", "1", compression="group4")),
    ("x.webp", picture("WEBP")),
    ("x.webp", picture("WEBP", "RGBA", exif=EXIF, save_all=True)),
    ("x.ppm", picture("PPM")),
    ("x.pgm", b"P5\n3 2 1000\n" + bytes(12)),
    ("x.pgm", b"P2\n# plain\n3 2 255\n0 1 2 3 4 5\n"),
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
    """The CRCs of a zip or PNG mended, so that what lies behind them is reached."""
    if name.endswith(".png"):
        return with_png_checksums(data)
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


def with_png_checksums(data: bytes) -> bytes:
    mended, at = bytearray(data), 8
    while at + 12 <= len(mended):
        end = at + 8 + int.from_bytes(mended[at : at + 4], "big")
        mended[end : end + 4] = zlib.crc32(mended[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(mended)


def resident(line: str, forget: bool = False) -> int:
    """Bytes that /proc says of this process now (VmRSS) or at most (VmHWM); 0 without Linux."""
    try:
        if forget:  # the most so far
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next(int(s.split()[1]) * 1024 for s in status if s.startswith(line))


def check(name: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set" / name
        path.parent.mkdir()
        path.write_bytes(data)
        before = resident("VmRSS", forget=True)
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
        more = resident("VmHWM") - before
        assert not before or more < MOST_RESIDENT, f"{more} resident bytes for {name}"
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
def test_many_mutated_files():
    """`FILES=20000` for as many as once were read; 16 ms each."""
    OUTCOMES.clear()
    files = int(os.environ.get("FILES", "5000"))
    fuzz(files)()
    assert sum(OUTCOMES.values()) >= 0.95 * files, OUTCOMES  # hypothesis may end early, by little
    print(OUTCOMES)


def test_a_deep_header_is_no_recursion():
    data = bytearray(npy(VECTORS))
    head = b"{'descr': " + b"(" * 4000 + b"}"
    data[8:10] = len(head).to_bytes(2, "little")
    with warnings.catch_warnings():
        check("x.npy", bytes(data[:10]) + head)
