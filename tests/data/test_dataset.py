from __future__ import annotations

import hashlib
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.data import Dataset, to_batch, to_uint8
from gengen.types import InputError


def images(num: int = 5, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (num, 4, 3, 2), dtype=np.uint8),
        "label": rng.integers(0, 3, num).astype(np.int32),
    }


def test_length_and_shape():
    data = Dataset("a", images())
    assert len(data) == 5
    assert data.shape == (4, 3, 2)
    assert Dataset("b", {"x": np.zeros((7, 2), np.float32)}).shape == (2,)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "either"),
        ({"label": np.zeros(3, np.int32)}, "either"),
        ({**images(), "x": np.zeros((5, 2), np.float32)}, "either"),
        ({**images(), "weight": np.zeros(5, np.float32)}, "weight"),
        ({"image": np.zeros((3, 2, 2, 1), np.float32)}, "must be uint8"),
        ({"image": np.zeros((3, 2, 2), np.uint8)}, r"must be uint8 \[N, H, W, C\]"),
        ({"x": np.zeros((3, 2))}, "must be float32"),
        ({"x": np.zeros(3, np.float32)}, r"float32 \[N, D\]"),
        ({**images(), "label": np.zeros(5, np.int64)}, "must be int32"),
        ({"x": np.zeros((0, 2), np.float32)}, "empty"),
        ({"image": np.zeros((3, 0, 2, 1), np.uint8)}, "empty"),
        ({**images(), "label": np.zeros(4, np.int32)}, "differing lengths"),
        ({"x": np.array([[0.0, np.nan]], np.float32)}, "NaN"),
        ({"x": np.array([[0.0, np.inf]], np.float32)}, "NaN or infinity"),
        ({**images(), "label": np.full(5, -1, np.int32)}, "must lie in 0"),
    ],
)
def test_wrong_arrays_are_refused_in_one_line(arrays, message):
    with pytest.raises(InputError, match=message) as caught:
        Dataset("a", arrays)
    assert "\n" not in str(caught.value)


def test_a_label_without_a_class_is_refused():
    arrays = {**images(), "label": np.array([0, 1, 2, 0, 1], np.int32)}
    Dataset("a", arrays, ("a", "b", "c"))
    with pytest.raises(InputError, match=r"0\.\.1, one per class"):
        Dataset("a", arrays, ("a", "b"))


def test_arrays_cannot_be_changed():
    data = Dataset("a", images())
    with pytest.raises(ValueError, match="read-only"):
        data.arrays["image"][0] = 0


def test_fingerprint_tells_every_byte_name_dtype_and_shape():
    arrays = images()
    reference = Dataset("a", arrays).fingerprint
    assert reference == Dataset("b", dict(reversed(arrays.items()))).fingerprint
    strided = {name: np.repeat(a, 2, axis=0)[::2] for name, a in arrays.items()}
    assert reference == Dataset("a", strided).fingerprint
    changed = {name: a.copy() for name, a in arrays.items()}
    changed["image"][4, 3, 2, 1] ^= 1
    others = [
        changed,
        {**arrays, "label": (arrays["label"] + 1).astype(np.int32)},
        {"image": arrays["image"]},
        {**arrays, "image": arrays["image"].reshape(5, 3, 4, 2)},
    ]
    prints = {Dataset("a", other).fingerprint for other in others}
    assert len(prints | {reference}) == 1 + len(others)


def test_fingerprint_is_the_documented_digest():
    # The same on every machine and in every release.
    data = Dataset("a", {"x": np.array([[1.0, -2.0]], np.float32)})
    expected = hashlib.sha256(b"x <f4 (1, 2)\n" + struct.pack("<2f", 1, -2))
    assert data.fingerprint == expected.hexdigest()


def test_to_batch_under_jit_equals_numpy():
    arrays = {"image": np.arange(512, dtype=np.uint8).reshape(8, 8, 4, 2) ^ 7, "label": LABEL}
    indices = np.array([7, 0, 0, 3], np.int32)
    batch = jax.jit(to_batch)(arrays, indices)
    expected = arrays["image"][indices].astype(np.float64) / 127.5 - 1
    assert batch["image"].dtype == jnp.float32
    np.testing.assert_allclose(batch["image"], expected, rtol=2**-22, atol=0)
    np.testing.assert_array_equal(batch["image"], to_batch(arrays, indices)["image"])
    assert batch["label"].dtype == jnp.int32
    np.testing.assert_array_equal(batch["label"], LABEL[indices])


LABEL = np.arange(8, dtype=np.int32)


def test_to_batch_leaves_vectors_as_they_are():
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    batch = jax.jit(to_batch)({"x": x}, np.array([5, 1], np.int32))
    assert set(batch) == {"x"}
    np.testing.assert_array_equal(batch["x"], x[[5, 1]])


def test_to_uint8_inverts_to_batch_for_every_value():
    arrays = {"image": np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)}
    batch = jax.jit(to_batch)(arrays, np.zeros(1, np.int32))
    np.testing.assert_array_equal(to_uint8(batch["image"]), arrays["image"])
    image = np.asarray(batch["image"]).ravel()
    assert (image[0], image[-1]) == (-1, 1)  # not one rounding further
    np.testing.assert_array_equal(image, -image[::-1])
    assert (np.diff(image) > 0).all()


def test_to_uint8_rounds_clips_and_survives_nan():
    values = np.array([-1.0, -7.0, 1.0, 7.0, np.nan, np.inf, -np.inf, 1 / 127.5 * 0.9 - 1])
    np.testing.assert_array_equal(to_uint8(values), [0, 0, 255, 255, 0, 255, 0, 1])
