from __future__ import annotations

import io
import re
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from gengen.data import load, memory
from gengen.runs import conditions
from gengen.types import InputError

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (6, 4, 3, 1), dtype=np.uint8)
X = RNG.normal(size=(6, 2)).astype(np.float32)
UNIT = np.linspace(0, 1, 24, dtype=np.float32).reshape(2, 2, 2, 3)


def npz(folder, save=np.savez, **arrays) -> str:
    path = folder / "a.npz"
    save(path, **arrays)
    return str(path)


def refused(path: str) -> str:
    with pytest.raises(InputError) as caught:
        load(path)
    message = str(caught.value)
    assert path in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("label", ["label", "labels", "y"])
@pytest.mark.parametrize("name", ["image", "images", "arr_0", "x", "data"])
def test_names(tmp_path, save, name, label):
    path = npz(tmp_path, save, **{name: IMAGE, label: np.arange(6)})
    data = load(path)
    assert data.name == path
    assert data.classes is None
    np.testing.assert_array_equal(data.arrays["image"], IMAGE)
    np.testing.assert_array_equal(data.arrays["label"], np.arange(6))
    assert data.arrays["label"].dtype == np.int32


@pytest.mark.parametrize(
    "names", [("x_{}", "y_{}"), ("X_{}", "y_{}"), ("{}_images", "{}_labels"), ("{}_x", "{}_y")]
)
def test_splits_in_the_names_of_arrays(tmp_path, names):
    """As in Keras' mnist.npz, and in MedMNIST's files, whose labels are columns."""
    data, label = names
    y = np.arange(6, dtype=np.uint8)[:, None]
    arrays = {data.format("train"): IMAGE, label.format("train"): y}
    path = npz(tmp_path, **arrays, **{data.format("test"): IMAGE[:2]})
    train, test = load(path), load(f"{path}:test")
    assert (train.name, test.name) == (f"{path}:train", f"{path}:test")
    assert load(f"{path}:train").fingerprint == train.fingerprint
    np.testing.assert_array_equal(train.arrays["label"], np.arange(6))
    assert len(test) == 2 and "label" not in test.arrays
    assert conditions.held_out_of(train.name) == test.name
    assert conditions.held_out({"data": {"name": train.name}}).name == test.name
    path = npz(tmp_path, **arrays)  # without a test split: the data themselves
    assert conditions.held_out({"data": {"name": train.name}}).name == train.name
    with pytest.raises(InputError, match="no array named x_val"):
        load(f"{path}:val")


def test_images_without_channels_and_without_labels(tmp_path):
    data = load(npz(tmp_path, image=IMAGE[..., 0]))
    np.testing.assert_array_equal(data.arrays["image"], IMAGE)
    assert set(data.arrays) == {"image"}


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
def test_vectors(tmp_path, dtype):
    data = load(npz(tmp_path, x=X.astype(dtype)))
    np.testing.assert_array_equal(data.arrays["x"], X.astype(dtype).astype(np.float32))
    assert data.arrays["x"].dtype == np.float32


def test_column_major_and_big_endian_arrays(tmp_path):
    arrays = {"image": np.asfortranarray(IMAGE), "label": np.arange(6, dtype=">i8")}
    data = load(npz(tmp_path, **arrays))
    np.testing.assert_array_equal(data.arrays["image"], IMAGE)
    np.testing.assert_array_equal(data.arrays["label"], np.arange(6))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_images_are_quantised(tmp_path, dtype):
    levels = np.arange(256).reshape(4, 8, 8, 1)
    for images in (levels / 255, levels / 127.5 - 1):
        data = load(npz(tmp_path, image=images.astype(dtype)))
        np.testing.assert_array_equal(data.arrays["image"], levels)
        assert data.arrays["image"].dtype == np.uint8


def test_other_members_are_not_read(tmp_path):
    path = npz(tmp_path, image=IMAGE, extra=np.array([{}], dtype=object))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("README.txt", "hello")
    assert len(load(path)) == 6


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"picture": IMAGE}, "no array named image, .* picture"),
        ({}, "none at all"),
        ({"x": np.array([[1.0, np.nan]])}, "array x holds NaN"),
        ({"x": np.array([[1.0, np.inf]])}, "array x holds NaN or infinity"),
        ({"image": np.where(UNIT > 0.5, np.nan, UNIT)}, "array image holds NaN"),
        ({"x": np.array([[1e300, 0.0]])}, "too large for float32"),
        ({"image": UNIT * 255}, r"\[0, 255\], neither"),
        ({"image": UNIT * 3 - 1}, r"\[-1, 2\], neither"),
        ({"image": IMAGE[0, 0]}, "reshape images"),
        ({"image": IMAGE[None]}, "give images as"),
        ({"image": np.float32(1)}, "give images as"),
        ({"image": UNIT[0, 0, 0]}, "give images as"),
        ({"x": np.arange(6).reshape(3, 2)}, "int64"),
        ({"x": X.astype(complex)}, "complex128"),
        ({"x": np.array([["a", "b"]])}, "give images as"),
        ({"image": np.zeros((2, 3, 8, 8), np.uint8)}, r"transpose\(0, 2, 3, 1\)"),
        ({"image": np.zeros((0, 8, 8, 1), np.uint8)}, "empty"),
        ({"image": np.array([{}], dtype=object)}, "array image holds Python objects"),
        ({"image": IMAGE, "label": np.array([1, "a", {}] * 2, dtype=object)}, "array label holds"),
        ({"image": IMAGE, "label": np.arange(5)}, "array label has 5 labels for 6"),
        ({"image": IMAGE, "y": np.arange(6.0)}, "array y is float64"),
        ({"image": IMAGE, "y": np.arange(12).reshape(6, 2)}, r"int64 \[6, 2\]"),
        ({"image": IMAGE, "y": np.arange(6) - 1}, "-1..4"),
        ({"image": IMAGE, "y": np.arange(6) * 2**30}, "number the classes"),
    ],
)
def test_wrong_arrays(tmp_path, arrays, message):
    assert re.search(message, refused(npz(tmp_path, **arrays)))


def test_a_missing_file_and_a_folder(tmp_path):
    assert "no such file" in refused(str(tmp_path / "none.npz"))
    (tmp_path / "folder.npz").mkdir()
    assert "holds no image" in refused(str(tmp_path / "folder.npz"))


def test_no_zip(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"")
    assert "not a whole .npz file" in refused(str(path))
    np.save(path.with_suffix(".npy"), X)
    path.write_bytes(path.with_suffix(".npy").read_bytes())
    assert "not a whole .npz file" in refused(str(path))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_truncated_anywhere(tmp_path, save):
    path = npz(tmp_path, save, x=X)
    whole = (tmp_path / "a.npz").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "a.npz").write_bytes(whole[:length])
        refused(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_flipped_bits_are_noticed_or_harmless(tmp_path, save):
    path = npz(tmp_path, save, x=X)
    whole = (tmp_path / "a.npz").read_bytes()
    for i in range(len(whole)):
        bit = 1 << i % 8
        (tmp_path / "a.npz").write_bytes(whole[:i] + bytes([whole[i] ^ bit]) + whole[i + 1 :])
        try:
            data = load(path)
        except InputError:
            continue
        np.testing.assert_array_equal(data.arrays["x"], X)


def member(header: str | bytes, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """A .npy file with any header."""
    text = header.encode() if isinstance(header, str) else header
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + data


def described(shape: str, descr: str = "<f4") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n"


def zipped(folder, content: bytes, compression: int = zipfile.ZIP_DEFLATED) -> str:
    with zipfile.ZipFile(folder / "a.npz", "w", compression) as archive:
        archive.writestr("x.npy", content)
    return str(folder / "a.npz")


@pytest.mark.parametrize(
    "content",
    [
        member(described("(1000000000000, 2)"), bytes(16)),
        member(described("(2, 3)"), bytes(16)),  # too few bytes
        member(described("(2, 1)"), bytes(16)),  # too many
        member(described("(-1, -4)"), bytes(16)),
        member(described("(0, 10000000000000000000000000)")),
        member(described("(10000000000, 2)", "|S0")),
        member(described("(2, 2)", "nonsense"), bytes(16)),
        member(described("2L, 2"), bytes(16)),
        member("{'descr': " + "(" * 500, bytes(16)),
        member("{" * 9000),
        member(b"\xff\x00\xfe" * 20),
        member("'" * 3),
        member(described("(2, 2)"), bytes(16), version=(3, 0)),
        member(described("(2, 2)"), bytes(16), version=(9, 9)),
        member(described("(1,)" + " " * 70_000), bytes(4), version=(2, 0)),
        b"",
        b"\x93NUMPY",
        b"hello, world",
    ],
)
def test_hostile_headers(tmp_path, content):
    assert "array x" in refused(zipped(tmp_path, content))


def test_version_2_of_the_format_is_read(tmp_path):
    path = zipped(tmp_path, member(described("(6, 2)"), X.tobytes(), version=(2, 0)))
    np.testing.assert_array_equal(load(path).arrays["x"], X)


def test_a_lying_zip_directory_allocates_nothing(tmp_path):
    # A header of 4 TB and a (Zip64) directory that agrees with it, in a file of some hundred bytes.
    head = member(described("(1000000000000, 1)"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("x.npy")
        archive.writestr(info, head + bytes(8))
        info.file_size = info.compress_size = 4 * 10**12 + len(head)
    (tmp_path / "a.npz").write_bytes(buffer.getvalue())
    tracemalloc.start()
    assert "more than a file of" in refused(str(tmp_path / "a.npz"))
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


def test_the_length_of_a_header_allocates_nothing(tmp_path):
    """Format 2.0 lets a header be 4 GB long; blanks, which deflate to a thousandth."""
    size = 64 * 2**20
    head = b"\x93NUMPY\x02\x00" + size.to_bytes(4, "little") + b" " * size
    (tmp_path / "a.npy").write_bytes(head)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", head)
    for name in ("a.npy", "a.npz"):
        tracemalloc.start()
        with pytest.raises(ValueError, match=f"header of {size} bytes"):
            load(str(tmp_path / name))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < size / 16


def test_a_bomb_is_stopped_by_the_memory_there_is(tmp_path, monkeypatch):
    content = member(described("(1000000, 1)"), bytes(4_000_000))
    path = zipped(tmp_path, content)
    assert len(load(path)) == 1_000_000
    monkeypatch.setattr(memory, "available_memory", lambda: 7_000_000)
    assert "memory available" in refused(path)


def test_odd_compression_and_encryption(tmp_path):
    content = member(described("(6, 2)"), X.tobytes())
    assert "compressed" in refused(zipped(tmp_path, content, zipfile.ZIP_BZIP2))
    path = zipped(tmp_path, content)
    whole = bytearray((tmp_path / "a.npz").read_bytes())
    whole[whole.index(b"PK\x01\x02") + 8] |= 1  # the directory's flag of encryption
    (tmp_path / "a.npz").write_bytes(whole)
    assert "encrypted" in refused(path)
