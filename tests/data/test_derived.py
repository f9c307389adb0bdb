"""Edges, grey versions and classes of data sets."""

import numpy as np
import pytest

from gengen.data import DataOptions, Dataset, load
from gengen.data.derived import of_classes, sobel
from gengen.types import InputError
from tests.data.pictures import noise, save


def test_edges_of_a_step_and_of_any_image():
    step = np.zeros((1, 6, 6, 1), np.uint8)
    step[:, :, 3:] = 255
    want = np.zeros((6, 6), int)
    want[:, 2:4] = 255
    np.testing.assert_array_equal(sobel(step)[0, ..., 0], want)
    np.testing.assert_array_equal(sobel(step.swapaxes(1, 2))[0, ..., 0], want.T)
    x = noise(5, 5).astype(float)
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    part = x[1:4, 2:5]
    size = np.hypot((kernel * part).sum(), (kernel.T * part).sum()) / 4
    found = sobel(x.astype(np.uint8)[None, ..., None])[0, 2, 3, 0]
    assert found == min(255, round(size))


def test_edges_and_grey_are_pairs(tmp_path):
    edges, digits = load("edges:digits:test"), load("digits:test")
    np.testing.assert_array_equal(edges.arrays["target"], digits.arrays["image"])
    np.testing.assert_array_equal(edges.arrays["image"], sobel(digits.arrays["image"]))
    np.testing.assert_array_equal(edges.arrays["label"], digits.arrays["label"])
    grey, colour = load("grey:photographs:test"), load("photographs:test")
    assert grey.shape == (16, 16, 1) and grey.target_shape == (16, 16, 3)
    luma = colour.arrays["image"].astype(float) @ [0.299, 0.587, 0.114]
    assert np.abs(grey.arrays["image"][..., 0] - luma).max() <= 1  # rounding
    with pytest.raises(InputError, match="edges:"):
        load("grey:digits")
    with pytest.raises(InputError, match="no images"):
        load("edges:moons")


def test_pairs_of_a_stream_are_those_in_memory(tmp_path):
    from gengen.data import open_data

    for i in range(5):
        save(tmp_path / f"{i}.png", noise(4, 4, 3))
    spec = f"grey:folder:{tmp_path}"
    stream, whole = open_data(spec, DataOptions(stream=True)), load(spec)
    assert not isinstance(stream, Dataset)
    assert (stream.shape, stream.target_shape) == ((4, 4, 1), (4, 4, 3))
    found = stream.read(np.array([3, 1]))
    for name in ("image", "target"):
        np.testing.assert_array_equal(found[name], whole.arrays[name][[3, 1]])


def test_classes_by_number_and_by_name():
    digits = load("digits")
    some = load("digits:classes=7+2")
    assert {*some.arrays["label"].tolist()} == {2, 7} and some.classes == digits.classes
    assert len(some) == np.isin(digits.arrays["label"], [2, 7]).sum()
    assert {*load("photographs:test:classes=FLOWER").arrays["label"].tolist()} == {1}
    with pytest.raises(InputError, match="no class 'x'.*0, 1, 2"):
        load("digits:classes=x")
    with pytest.raises(InputError, match="labelled"):
        of_classes("x", Dataset.of(np.zeros((3, 2))), ["1"])
