from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gengen.data import load, offline
from gengen.data.idx import write_idx
from gengen.types import InputError

# A change here means that the data, their order or the split changed: results do not compare.
PINNED = {
    "digits:train": "5a631e080c7c947d88dcc2daa02fe58b4e4474648dfe0fd253839ca926179eb8",
    "digits:test": "8af5502179a0047610eb6dfea9aff158e4ae67cc1e55afd85f11c10d5d0563a0",
    "mnist5k:train": "f09fecac3b57d79a754b22141c4870b725c08151285bc3a3d03f20d7f2211e6f",
    "mnist5k:test": "2c422e92f52fd177b9d0ede572811d2af5e0480070426ed6d215191479c0d8a2",
    "photographs:train": "0db442cac015cde5843ec4f7b20dc1dfd274917f319fb78ecc40c43ea01e9ea2",
    "photographs:test": "94bba2ed4fbd0d315387ca9e3467626726adfa66f32880f8eb5f92fbc6a918be",
}
FASHION = {
    "train": "916e220ebc2337d62b0eb93ec05a89f2dc61a7ad8d6d9e31d5633eef74c799c1",
    "test": "5cd47cc132de608aab6dbd1bddeeec83c230d31b0015c62d28a2507090ddb147",
}


@pytest.mark.parametrize(("spec", "fingerprint"), PINNED.items())
def test_fingerprints_are_pinned(spec, fingerprint):
    assert load(spec).fingerprint == fingerprint


def test_patches_of_photographs_are_theirs():
    """None of the test split shares a pixel with training, and each is where it was cut."""
    from sklearn.datasets import load_sample_image

    train, test = load("photographs"), load("photographs:test")
    assert (len(train), len(test), train.shape) == (6136, 520, (16, 16, 3))
    names = ("china", "flower")
    assert train.classes == test.classes == names
    for data, columns, stride in ((train, slice(0, 480), 8), (test, slice(480, 640), 16)):
        for label, name in enumerate(names):
            x = load_sample_image(f"{name}.jpg")[:, columns]
            places = [
                x[i : i + 16, j : j + 16].tobytes()
                for i in range(0, 427 - 15, stride)
                for j in range(0, x.shape[1] - 15, stride)
            ]
            own = data.arrays["image"][data.arrays["label"] == label]
            assert sorted(p.tobytes() for p in own) == sorted(places)
    assert len(np.unique(train.arrays["label"][:64])) == 2  # mixed


@pytest.mark.parametrize(
    ("name", "train", "test", "shape"),
    [("digits", 1437, 360, (8, 8, 1)), ("mnist5k", 4500, 500, (28, 28, 1))],
)
def test_splits_are_stratified_and_cover_the_set_once(name, train, test, shape):
    parts = [load(f"{name}:{split}") for split in ("train", "test")]
    assert [len(part) for part in parts] == [train, test]
    assert {part.shape for part in parts} == {shape}
    assert parts[0].classes == tuple("0123456789")
    np.testing.assert_array_equal(np.bincount(parts[1].arrays["label"]), [test // 10] * 10)
    assert len(np.unique(parts[0].arrays["label"][:64])) == 10  # mixed, not class after class
    read = {"digits": offline._read_digits, "mnist5k": offline._read_mnist5k}[name]
    key = lambda image, label: sorted(  # noqa: E731
        (int(k), i.tobytes()) for i, k in zip(image, label, strict=True)
    )
    image = np.concatenate([part.arrays["image"] for part in parts])
    label = np.concatenate([part.arrays["label"] for part in parts])
    assert key(image, label) == key(*read())


def test_pixels_use_the_whole_range():
    for name in ("digits", "mnist5k"):
        image = load(name).arrays["image"]
        assert (image.min(), image.max()) == (0, 255)
    assert set(np.unique(load("digits").arrays["image"])) == {
        round(v * 255 / 16) for v in range(17)
    }


def write_fashion(folder: Path, suffix: str) -> dict[str, np.ndarray]:
    """Small files under the four names, of MNIST's digits; the first rows by name."""
    folder.mkdir(parents=True, exist_ok=True)
    digits = load("mnist5k:test").arrays
    rows = {"train": slice(0, 40), "t10k": slice(40, 60)}
    for part, where in rows.items():
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", digits["image"][where, :, :, 0])
        label = digits["label"][where].astype(np.uint8)
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", label)
    return digits


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty $GENGEN_DATA_DIR, and no Debian package."""
    monkeypatch.setenv("GENGEN_DATA_DIR", str(tmp_path / "mine"))
    monkeypatch.setattr(offline, "DEBIAN_FASHION_DIR", tmp_path / "debian")
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("below", ["", "fashion", "fashion-mnist"])
def test_fashion_is_read_from_the_folder(folder, below, suffix):
    digits = write_fashion(folder / below, suffix)
    train, test = load("fashion"), load("fashion:test")
    assert (train.name, test.name) == ("fashion:train", "fashion:test")
    np.testing.assert_array_equal(train.arrays["image"], digits["image"][:40])
    np.testing.assert_array_equal(train.arrays["label"], digits["label"][:40])
    np.testing.assert_array_equal(test.arrays["image"], digits["image"][40:60])
    np.testing.assert_array_equal(test.arrays["label"], digits["label"][40:60])
    assert train.classes is not None
    assert len(train.classes) == 10


def test_fashion_falls_back_to_debians_folder(folder, monkeypatch):
    write_fashion(folder.parent / "debian", ".gz")
    assert len(load("fashion")) == 40
    monkeypatch.delenv("GENGEN_DATA_DIR")
    assert len(load("fashion")) == 40


def test_fashion_prefers_its_own_sub_folder(folder):
    write_fashion(folder / "fashion", "")
    for name in ("images-idx3", "labels-idx1"):  # another set's files above it
        (folder / f"train-{name}-ubyte").write_bytes(b"")
    assert len(load("fashion")) == 40


def test_fashion_nowhere(folder, monkeypatch):
    with pytest.raises(InputError, match="train-images-idx3-ubyte.gz not found") as caught:
        load("fashion")
    for word in ("mine/fashion", "mine/fashion-mnist", "debian", "dataset-fashion-mnist", "_DIR"):
        assert word in str(caught.value)
    monkeypatch.delenv("GENGEN_DATA_DIR")
    with pytest.raises(InputError, match="not found in .*debian: install"):
        load("fashion")


def test_fashion_with_a_missing_file(folder):
    write_fashion(folder, "")
    (folder / "t10k-labels-idx1-ubyte").unlink()
    assert len(load("fashion:train")) == 40
    with pytest.raises(InputError, match="t10k-labels-idx1-ubyte.gz not found in .*mine"):
        load("fashion:test")


@pytest.mark.parametrize(
    ("label", "message"), [(np.zeros(39), "39 labels for the 40 images"), (np.full(40, 10), "10")]
)
def test_fashion_with_wrong_labels(folder, label, message):
    write_fashion(folder, "")
    write_idx(folder / "train-labels-idx1-ubyte", label.astype(np.uint8))
    with pytest.raises(InputError, match=f"train-labels-idx1-ubyte: .*{message}"):
        load("fashion")


@pytest.mark.parametrize(("split", "num"), [("train", 60_000), ("test", 10_000)])
def test_the_real_fashion_mnist(split, num, monkeypatch):
    if not offline.DEBIAN_FASHION_DIR.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    monkeypatch.delenv("GENGEN_DATA_DIR", raising=False)
    data = load(f"fashion:{split}")
    np.testing.assert_array_equal(np.bincount(data.arrays["label"]), [num // 10] * 10)
    assert data.fingerprint == FASHION[split]
