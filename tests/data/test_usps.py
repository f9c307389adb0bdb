"""USPS from files that the test writes: HDF5, and LIBSVM's text."""

import bz2

import numpy as np
import pytest

from gengen.data import load
from gengen.types import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 256))
DIGITS = [0, 9, 4]


def text() -> str:
    lines = []
    for row, digit in zip(PIXELS, DIGITS, strict=True):
        values = [f"{i + 1}:{v / 127.5 - 1:.6f}" for i, v in enumerate(row) if i != 7]
        lines.append(f"{digit + 1} {' '.join(values)}\n")
    return "".join(lines)


@pytest.mark.parametrize("packed", [False, True])
def test_the_text_of_libsvm(tmp_path, monkeypatch, packed):
    monkeypatch.setenv("GENGEN_DATA_DIR", str(tmp_path))
    name, content = "usps.t", text().encode()
    (tmp_path / "usps").mkdir()
    path = tmp_path / "usps" / (f"{name}.bz2" if packed else name)
    path.write_bytes(bz2.compress(content) if packed else content)
    data = load("usps:test")
    assert data.shape == (16, 16, 1) and data.arrays["label"].tolist() == DIGITS
    want = PIXELS.copy()
    want[:, 7] = 128  # left out: 0 of -1..1
    np.testing.assert_array_equal(data.arrays["image"].reshape(3, 256), want)
    with pytest.raises(InputError, match="must be on disk"):
        load("usps")


def test_hdf5(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    monkeypatch.setenv("GENGEN_DATA_DIR", str(tmp_path))
    with h5py.File(tmp_path / "usps.h5", "w") as file:
        for split, some in (("train", slice(None)), ("test", slice(1, None))):
            group = file.create_group(split)
            group["data"], group["target"] = PIXELS[some] / 255, DIGITS[some]
    data = load("usps")
    assert data.arrays["label"].tolist() == DIGITS
    np.testing.assert_array_equal(data.arrays["image"].reshape(3, 256), PIXELS)
    assert load("usps:test").arrays["label"].tolist() == DIGITS[1:]


@pytest.mark.parametrize(
    "content, word",
    [
        ("x 1:0", "cannot be read"),
        ("1 257:0", "256 values"),
        ("11 1:0", "digits 10"),
        ("1 1:5", "0..1"),
        ("", "256"),
    ],
)
def test_a_broken_file_is_named(tmp_path, monkeypatch, content, word):
    monkeypatch.setenv("GENGEN_DATA_DIR", str(tmp_path))
    (tmp_path / "usps").write_text(content)
    with pytest.raises(InputError, match=word) as caught:
        load("usps")
    assert str(tmp_path / "usps") in str(caught.value)


def test_without_files_the_cure_is_said(monkeypatch):
    monkeypatch.delenv("GENGEN_DATA_DIR", raising=False)
    with pytest.raises(InputError, match="GENGEN_DATA_DIR"):
        load("usps")
