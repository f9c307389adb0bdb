"""One file to one array: orientation, colours, depths, sizes; no more memory than it deserves."""

import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

from gengen.data import Stream, images, load, open_data
from gengen.data.images import MAX_PIXELS, decode
from gengen.data.options import DataOptions
from tests.data.pictures import bomb, noise, postscript, save


def test_exif_orientation_is_applied(tmp_path):
    pixels = noise(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    save(tmp_path / "a.png", pixels, exif=exif)
    data = load(f"folder:{tmp_path}")
    np.testing.assert_array_equal(data.arrays["image"][0], np.rot90(pixels, -1))


# EXIF orientation -> how the stored pixels are turned to be shown.
TURNS = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: np.fliplr(np.rot90(x, -1)),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.fliplr(np.rot90(x, 1)),
    8: lambda x: np.rot90(x, 1),
}


MODES = {
    "png": "1 L LA P RGB RGBA I;16",
    "tif": "1 L LA P RGB RGBA I;16 F",
    "jpg": "L RGB CMYK",
    "webp": "RGB RGBA",
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", MODES)
def test_header_and_pixels_agree_on_orientation(kind, orientation):
    """Each mode: the size that the header promises is that of the pixels, turned once."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"jpg": {"quality": 95}, "webp": {"lossless": True}}.get(kind, {})
    corner = np.zeros((8, 16, 3), np.uint8)
    corner[:4, :8] = 255  # a white quarter at the top left
    for mode in MODES[kind].split():
        image = Image.fromarray(corner)
        if mode == "I;16":
            image = Image.fromarray(corner[..., 0].astype(np.uint16) * 257)
        elif mode == "F":
            image = Image.fromarray(corner[..., 0] / np.float32(255))
        else:
            image = image.convert(mode)
        file = io.BytesIO()
        image.save(file, {"tif": "TIFF", "jpg": "JPEG"}.get(kind, kind), exif=exif, **options)
        height, width, _ = images.header(file.getvalue())
        shown = decode(file.getvalue(), DataOptions(), grey=False)
        assert shown.shape == (height, width, 3), mode
        off = np.abs(shown.astype(int) - TURNS[orientation](corner))
        assert off.max() <= (40 if kind == "jpg" else 0), mode


def test_sixteen_bits_become_eight(tmp_path):
    values = np.array([[0, 257, 65535], [32896, 128, 129]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    # v / 257, rounded: 65535 = 255 * 257.
    want = [[0, 1, 255], [128, 0, 1]]
    np.testing.assert_array_equal(load(f"folder:{tmp_path}").arrays["image"][0, ..., 0], want)


def test_transparent_pixels_lie_over_white(tmp_path):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = [10, 20, 30, 255]
    save(tmp_path / "a.png", pixels)
    image = load(f"folder:{tmp_path}").arrays["image"][0]
    np.testing.assert_array_equal(image[0, 0], [10, 20, 30])
    np.testing.assert_array_equal(image[1, 1], [255, 255, 255])


@pytest.mark.parametrize("crop", ["center", "stretch", "pad"])
def test_crops(tmp_path, crop):
    """Columns of grey 0, 1, ..., 31, twice as many as rows; the rows that pad adds are black."""
    pixels = np.repeat(8 * np.arange(32, dtype=np.uint8)[None], 16, axis=0)
    save(tmp_path / "a.png", pixels)
    image = load(f"folder:{tmp_path}", DataOptions(size=8, crop=crop)).arrays["image"][0, ..., 0]
    assert image.shape == (8, 8)
    step = 2 if crop == "center" else 4  # columns of the source to one of the result
    first = 8 if crop == "center" else 0
    want = 8 * (first + step * np.arange(8) + (step - 1) / 2)
    np.testing.assert_allclose(image[4, 1:-1], want[1:-1], atol=2)  # bicubic, rounded
    assert (image[0, -1] == 0) == (crop == "pad")


def test_resizing_is_antialiased(tmp_path):
    """Stripes of one pixel become their mean, not one of their colours."""
    pixels = np.tile(np.array([[0, 255]], np.uint8), (64, 32))
    save(tmp_path / "a.png", pixels)
    image = load(f"folder:{tmp_path}", DataOptions(size=8)).arrays["image"][0]
    assert np.abs(image[2:-2, 2:-2].astype(int) - 127).max() <= 2


@pytest.mark.parametrize("side", [9_000, 60_000])  # Pillow's own limit lies between
def test_a_bomb_is_refused_before_it_is_decoded(side, monkeypatch):
    assert side**2 > MAX_PIXELS
    monkeypatch.setattr(images, "_pixels", None)
    for read in (images.header, lambda content: decode(content, DataOptions(), grey=True)):
        with pytest.raises(ValueError, match="pixels"):
            read(bomb(side))


def test_postscript_is_not_handed_to_another_program():
    with pytest.raises(ValueError, match="it is none of BMP"):
        decode(postscript(), DataOptions(), grey=True)


def test_large_images_are_decoded_one_at_a_time(folder, monkeypatch):
    path, expected = folder
    decoding, most = [], []

    def pixels(*args):
        decoding.append(threading.get_ident())
        time.sleep(0.01)
        most.append(len(decoding))
        found = real(*args)
        decoding.pop()
        return found

    real = images._pixels
    monkeypatch.setattr(images, "_pixels", pixels)
    monkeypatch.setattr(images, "_LARGE", 23)  # of 24 pixels
    read = open_data(f"folder:{path}", DataOptions(stream=True))
    assert isinstance(read, Stream)
    threads = [threading.Thread(target=read.read, args=([np.array([i])])) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5
    np.testing.assert_array_equal(load(f"folder:{path}").arrays["image"], expected)


def test_metadata_that_pillow_warns_of_does_no_harm(tmp_path, capsys):
    """Warnings are errors in these tests; a user would see them."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\0"  # 255 entries, and then nothing
    pixels = np.full((8, 8), 77, np.uint8)
    save(tmp_path / "a.jpg", pixels, exif=exif)
    with pytest.warns(UserWarning, match="EXIF"), Image.open(tmp_path / "a.jpg") as image:
        image.getexif()
    np.testing.assert_array_equal(load(f"folder:{tmp_path}").arrays["image"][0, ..., 0], pixels)
    assert capsys.readouterr().err == ""


def test_a_large_jpeg_is_reduced_as_it_is_decoded(tmp_path, monkeypatch):
    """A slope keeps its values: the mean of each square of 64 pixels, whatever came between."""
    real = images._pixels
    slope = np.broadcast_to(np.linspace(0, 255, 1024), (512, 1024))
    save(tmp_path / "a.jpg", np.rint(slope).astype(np.uint8), quality=95)
    shapes = []
    monkeypatch.setattr(images, "_pixels", lambda *args: shapes.append(args[0].size) or real(*args))
    image = load(f"folder:{tmp_path}", DataOptions(size=16, crop="stretch")).arrays["image"][0]
    assert shapes == [(128, 64)]  # an eighth, and more than three times 16
    want = slope.reshape(16, 32, 16, 64).mean(axis=(1, 3))
    # JPEG's quantisation and three roundings: a level each; bicubic is exact on a slope, but
    # within two columns of its ends.
    assert np.abs(image[..., 0] - want)[:, 2:-2].max() <= 3


def test_numbers_that_are_none_make_a_bad_image(tmp_path):
    values = np.full((4, 4), 0.5, np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert (load(f"folder:{tmp_path}").arrays["image"] == 128).all()
    values[0, 0] = np.nan
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="a.tif cannot be read .it holds NaN"):
        load(f"folder:{tmp_path}")
