"""Arrays of NumPy's usual types: what they become, and what is refused."""

import numpy as np
import pytest

from gengen import load_data
from gengen.data import Dataset
from gengen.types import InputError

LEVELS = np.arange(2 * 3 * 4).reshape(2, 3, 4) * 10


def converted(x, y=None, **more):
    data = Dataset.of(x, y, **more)
    return next(v for k, v in data.arrays.items() if k in ("image", "x"))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f8"])
def test_float_vectors_become_float32(dtype):
    x = np.linspace(-3, 3, 6).reshape(3, 2).astype(dtype)
    got = converted(x)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, x.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint32])
def test_integer_images_keep_their_levels(dtype):
    got = converted(LEVELS.astype(dtype))
    assert got.dtype == np.uint8 and got.shape == (2, 3, 4, 1)
    np.testing.assert_array_equal(got[..., 0], LEVELS)


def test_images_of_bool_and_of_float():
    np.testing.assert_array_equal(converted(LEVELS > 99)[..., 0], np.where(LEVELS > 99, 255, 0))
    np.testing.assert_array_equal(converted(LEVELS / 255.0)[..., 0], LEVELS)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, np.uint64, bool])
@pytest.mark.parametrize("column", [False, True])
def test_labels_of_any_integer_type(dtype, column):
    y = np.array([1, 0, 1]).astype(dtype)
    data = Dataset.of(np.zeros((3, 2)), y[:, None] if column else y, classes=("a", "b"))
    assert data.arrays["label"].dtype == np.int32 and data.classes == ("a", "b")
    np.testing.assert_array_equal(data.arrays["label"], [1, 0, 1])


@pytest.mark.parametrize("kind", ["U", "S", object])
def test_strings_become_classes_in_sorted_order(kind):
    y = np.array(["shoe", "bag", "shoe"]).astype(kind)
    data = Dataset.of(np.zeros((3, 2)), y)
    np.testing.assert_array_equal(data.arrays["label"], [1, 0, 1])
    assert data.classes == ("bag", "shoe")
    assert load_data(np.zeros((3, 2)), label=y).fingerprint == data.fingerprint
    assert load_data((np.zeros((3, 2)), y)).fingerprint == data.fingerprint


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (LEVELS * 100, None, r"in 0\.\.23000: images lie in 0\.\.255"),
        (LEVELS > 99, [0, 1, 2], "3 labels for 2 examples"),
        ((LEVELS > 99).astype(int), None, r"astype\(bool\)"),
        (LEVELS * 1.0, None, "divide them by 255"),
        ([[1.0, 2.0], [3.0]], None, "rows of differing lengths"),
        (np.array([{}, {}]), None, "holds Python objects"),
        (np.zeros((2, 2), int), None, r"astype\(float\)"),
        ([[0.0, np.nan]], None, "NaN"),
        (np.zeros((2, 2)), [0.0, 1.0], r"astype\(int\)"),
        (np.zeros((2, 2)), np.eye(2, dtype=int), r"argmax\(1\)"),
        (np.zeros((2, 2)), [-1, 0], r"-1\.\.0"),
        (np.zeros((2, 2)), [0, None], "holds Python objects"),
    ],
)
def test_other_arrays_are_refused_in_one_line(x, y, message):
    with pytest.raises(InputError, match=message) as caught:
        Dataset.of(x, y)
    assert "\n" not in str(caught.value)
