"""Folders of images: order, labels, splits; what is bad is named."""

import numpy as np
import pytest

from gengen.data import Dataset, load, open_data
from gengen.data.images import MAX_BYTES
from gengen.data.options import DataOptions
from tests.data.pictures import bomb, cut, noise, postscript, save


def test_images_in_order_with_classes_from_sub_folders(folder):
    path, images = folder
    data = load(f"folder:{path}")
    assert isinstance(data, Dataset) and data.shape == (4, 6, 3)
    np.testing.assert_array_equal(data.arrays["image"], images)
    np.testing.assert_array_equal(data.arrays["label"], [0, 0, 0, 1, 1])
    assert data.classes == ("cat", "dog")


def test_images_beside_sub_folders_have_no_labels(folder):
    path, _ = folder
    save(path / "mouse.png", noise(4, 6, 3))
    (path / ".hidden.png").write_bytes(b"not an image")
    (path / "notes.txt").write_text("not an image either")
    data = load(f"folder:{path}")
    assert "label" not in data.arrays and data.classes is None and len(data) == 6


def test_splits_are_folders(folder):
    path, _ = folder
    root = path.parent
    for split in ("train", "test"):
        save(root / split / "a" / "1.png", noise(4, 6, 3))
    assert len(load(f"folder:{root}:test")) == 1
    with pytest.raises(ValueError, match="add :train or :test|say which"):
        load(f"folder:{root}")
    with pytest.raises(ValueError, match="has no folder test"):
        load(f"folder:{path}:test")


def test_the_fingerprint_is_of_contents_and_options(folder, tmp_path):
    path, _ = folder
    first = load(f"folder:{path}").fingerprint
    assert load(f"folder:{path}").fingerprint == first
    streamed = [open_data(f"folder:{path}", DataOptions(stream=True, size=s)) for s in (None, 4)]
    assert streamed[0].fingerprint != streamed[1].fingerprint
    save(path / "cat" / "0.png", noise(4, 6, 3))
    assert load(f"folder:{path}").fingerprint != first
    assert (
        open_data(f"folder:{path}", DataOptions(stream=True)).fingerprint != streamed[0].fingerprint
    )


def test_grey_images_have_one_channel_and_mixed_ones_three(tmp_path):
    save(tmp_path / "a.png", noise(5, 5))
    assert load(f"folder:{tmp_path}").shape == (5, 5, 1)
    save(tmp_path / "b.png", noise(5, 5, 3))
    assert load(f"folder:{tmp_path}").shape == (5, 5, 3)
    data = load(f"folder:{tmp_path}", DataOptions(grey=True))
    assert data.shape == (5, 5, 1)


BAD = {
    "half.png": lambda good: good[: len(good) // 2],
    "no_end.jpg": lambda good: cut(noise(4, 6, 3)),  # its header is whole
    "empty.jpg": lambda good: b"",
    "text.webp": lambda good: b"hello",
    "postscript.png": lambda good: postscript(),
    "bomb.png": lambda good: bomb(),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_named_or_skipped(folder, name, capsys):
    path, images = folder
    good = (path / "cat" / "0.png").read_bytes()
    (path / "cat" / name).write_bytes(BAD[name](good))
    with pytest.raises(ValueError, match=rf"{name} cannot be read.*--skip-bad-images") as error:
        load(f"folder:{path}")
    assert "\n" not in str(error.value)
    data = load(f"folder:{path}", DataOptions(skip_bad_images=True))
    np.testing.assert_array_equal(data.arrays["image"], images)
    assert f"{name} is skipped" in capsys.readouterr().err


def test_a_file_too_large_to_be_an_image_is_not_read(folder):
    path, images = folder
    with open(path / "cat" / "9.png", "wb") as file:
        file.truncate(MAX_BYTES + 1)  # a hole: it takes no room on the disk
    with pytest.raises(ValueError, match=r"9.png cannot be read \(it has 536870913 bytes"):
        load(f"folder:{path}")
    data = load(f"folder:{path}", DataOptions(skip_bad_images=True))
    np.testing.assert_array_equal(data.arrays["image"], images)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda p: None, "no such folder"),
        (lambda p: p.mkdir(), "holds no image"),
        (
            lambda p: (save(p / "a.png", noise(4, 5)), save(p / "b.png", noise(9, 4))),
            r"2 sizes, from 5 x 4 pixels .*a.png\) to 4 x 9 .*: pass --size, such as --size 4",
        ),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, make, message):
    make(tmp_path / "x")
    with pytest.raises(ValueError, match=message):
        load(f"folder:{tmp_path / 'x'}")


def test_options_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="size = 0"):
        load("digits", DataOptions(size=0))


def test_arrays_are_resized_too():
    data = load("digits", DataOptions(size=16))
    assert data.shape == (16, 16, 1) and len(data) == len(load("digits"))
    with pytest.raises(ValueError, match="for images"):
        load("ring8", DataOptions(size=16))


def test_sizes_that_differ_are_both_named(tmp_path):
    save(tmp_path / "upright.png", noise(9, 5))
    save(tmp_path / "flat.png", noise(5, 9))
    with pytest.raises(ValueError, match=r"2 sizes") as error:
        load(f"folder:{tmp_path}")
    assert {"9 x 5", "5 x 9"} == {size for size in ("9 x 5", "5 x 9") if size in str(error.value)}
    assert "upright.png" in str(error.value) and "flat.png" in str(error.value)
