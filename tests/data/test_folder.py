"""Folders of images: labels, orientation, colours, sizes; what is bad is named."""

import io
import pickle
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from gengen.data import Dataset, Stream, images, load, open_data, stream_batches, to_batch
from gengen.data.images import MAX_BYTES, MAX_PIXELS, decode
from gengen.data_options import DataOptions

RNG = np.random.default_rng(0)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def noise(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Two classes of 3 and 2 colour images, 6 wide and 4 high."""
    images = [
        save(tmp_path / "pets" / name / f"{i}.png", noise(4, 6, 3))
        for name, n in (("cat", 3), ("dog", 2))
        for i in range(n)
    ]
    return tmp_path / "pets", np.stack(images)


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


def test_exif_orientation_is_applied(tmp_path):
    pixels = noise(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    save(tmp_path / "a.png", pixels, exif=exif)
    data = load(f"folder:{tmp_path}")
    np.testing.assert_array_equal(data.arrays["image"][0], np.rot90(pixels, -1))


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
    """Left half black, right half white, twice as wide as high."""
    pixels = np.repeat(np.array([[0] * 16 + [255] * 16], np.uint8), 16, axis=0)
    save(tmp_path / "a.png", pixels)
    image = load(f"folder:{tmp_path}", DataOptions(size=8, crop=crop)).arrays["image"][0, ..., 0]
    assert image.shape == (8, 8)
    assert image[4, 0] == 0 and image[4, -1] == 255
    assert (image[0, -1] == 0) == (crop == "pad")  # the rows that pad added are black


def test_resizing_is_antialiased(tmp_path):
    """Stripes of one pixel become their mean, not one of their colours."""
    pixels = np.tile(np.array([[0, 255]], np.uint8), (64, 32))
    save(tmp_path / "a.png", pixels)
    image = load(f"folder:{tmp_path}", DataOptions(size=8)).arrays["image"][0]
    assert np.abs(image[2:-2, 2:-2].astype(int) - 127).max() <= 2


def bomb():
    """A PNG of 60,000 x 60,000 pixels in a few bytes, were it whole."""
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = (60000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


BAD = {
    "half.png": lambda good: good[: len(good) // 2],
    "empty.jpg": lambda good: b"",
    "text.webp": lambda good: b"hello",
    "postscript.png": lambda good: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\nshowpage\n",
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


def test_a_bomb_is_refused_before_it_is_decoded():
    assert 60000**2 > MAX_PIXELS
    with pytest.raises(ValueError, match="pixels"):
        decode(bomb(), DataOptions(), grey=True)


def test_postscript_is_not_handed_to_another_program():
    with pytest.raises(ValueError, match="it is none of BMP"):
        decode(BAD["postscript.png"](b""), DataOptions(), grey=True)


def test_a_file_too_large_to_be_an_image_is_not_read(folder):
    path, images = folder
    with open(path / "cat" / "9.png", "wb") as file:
        file.truncate(MAX_BYTES + 1)  # a hole: it takes no room on the disk
    with pytest.raises(ValueError, match=r"9.png cannot be read \(it has 536870913 bytes"):
        load(f"folder:{path}")
    data = load(f"folder:{path}", DataOptions(skip_bad_images=True))
    np.testing.assert_array_equal(data.arrays["image"], images)


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


def test_a_large_jpeg_is_reduced_as_it_is_decoded(tmp_path):
    """A slope keeps its values: the mean of each square of 64 pixels, whatever came between."""
    slope = np.broadcast_to(np.linspace(0, 255, 1024), (512, 1024))
    save(tmp_path / "a.jpg", np.rint(slope).astype(np.uint8), quality=95)
    image = load(f"folder:{tmp_path}", DataOptions(size=16, crop="stretch")).arrays["image"][0]
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


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda p: None, "no such folder"),
        (lambda p: p.mkdir(), "holds no image"),
        (lambda p: (save(p / "a.png", noise(4, 4)), save(p / "b.png", noise(4, 5))), "pass --size"),
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


# --- streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_gives_the_batches_of_the_set_in_memory(folder, workers):
    """From any step on, whole or in part, across the end of an epoch."""
    path, _ = folder
    whole = load(f"folder:{path}")
    stream = open_data(f"folder:{path}", DataOptions(stream=True))
    assert isinstance(stream, Stream) and isinstance(whole, Dataset)
    assert (len(stream), stream.shape, stream.classes) == (5, (4, 6, 3), ("cat", "dog"))
    part = slice(1, 3)
    options: dict = dict(batch_size=4, seed=3, start=2, stop=6, part=part, workers=workers)
    got = list(stream_batches(stream, **options))
    assert len(got) == 4
    for step, batch in enumerate(got, start=2):
        rows = whole.rows(4, 3, step)[part]
        np.testing.assert_array_equal(batch["image"], whole.arrays["image"][rows])
        np.testing.assert_array_equal(batch["label"], whole.arrays["label"][rows])


def test_a_reader_travels_to_workers(folder):
    path, images = folder
    stream = open_data(f"folder:{path}", DataOptions(stream=True))
    assert isinstance(stream, Stream)
    again = pickle.loads(pickle.dumps(stream.read))
    np.testing.assert_array_equal(again(np.array([4, 0]))["image"], images[[4, 0]])


def test_an_image_that_goes_bad_while_training_is_named(folder):
    path, _ = folder
    stream = open_data(f"folder:{path}", DataOptions(stream=True))
    assert isinstance(stream, Stream)
    (path / "dog" / "1.png").write_bytes(b"gone")
    with pytest.raises(ValueError, match=r"dog/1.png cannot be read"):
        stream.read(np.arange(5))


def test_a_stream_of_an_npy_file(tmp_path):
    x = RNG.normal(size=(11, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    whole = load(str(tmp_path / "x.npy"))
    stream = open_data(str(tmp_path / "x.npy"), DataOptions(stream=True))
    assert isinstance(whole, Dataset) and isinstance(stream, Stream)
    np.testing.assert_array_equal(whole.arrays["x"], x)
    np.testing.assert_array_equal(stream.read(np.array([10, 0, 3]))["x"], x[[10, 0, 3]])
    np.save(tmp_path / "images.npy", noise(5, 4, 6))
    stream = open_data(str(tmp_path / "images.npy"), DataOptions(stream=True))
    assert isinstance(stream, Stream) and stream.shape == (4, 6, 1)
    assert stream.read(np.array([1]))["image"].shape == (1, 4, 6, 1)


def test_a_stream_needs_no_conversion(tmp_path):
    np.save(tmp_path / "x.npy", RNG.normal(size=(11, 3)))
    with pytest.raises(ValueError, match="float32"):
        open_data(str(tmp_path / "x.npy"), DataOptions(stream=True))
    x = np.zeros((4, 2), np.float32)
    x[2] = np.nan
    np.save(tmp_path / "nan.npy", x)
    stream = open_data(str(tmp_path / "nan.npy"), DataOptions(stream=True))
    assert isinstance(stream, Stream)
    with pytest.raises(ValueError, match="NaN"):
        stream.read(np.arange(4))


def test_memory_decides(folder, monkeypatch):
    """Both images of a pair count; and what is asked to be in memory must fit there."""
    path, images = folder
    half = images.nbytes // 2  # of a set: 3 of 6 columns
    monkeypatch.setattr("gengen.data.memory.MAX_RESIDENT", 2 * half)
    assert isinstance(open_data(f"folder:{path}"), Dataset)
    assert isinstance(open_data(f"halves:{path}"), Dataset)
    monkeypatch.setattr("gengen.data.memory.MAX_RESIDENT", 2 * half - 1)
    assert isinstance(open_data(f"folder:{path}"), Stream)
    assert isinstance(open_data(f"halves:{path}"), Stream)
    monkeypatch.setattr("gengen.data.memory.available_memory", lambda: 100)
    with pytest.raises(ValueError, match="too much for"):
        load(f"folder:{path}")


@pytest.mark.parametrize("spec, cure", [("digits", "leave out"), ("a.npz", "save the array as")])
def test_what_cannot_be_streamed_says_so(spec, cure):
    with pytest.raises(ValueError, match=cure):
        open_data(spec, DataOptions(stream=True))


# --- pairs ----------------------------------------------------------------------------------------


def test_pairs_are_matched_by_name(tmp_path):
    a = [save(tmp_path / "a" / f"{i}.png", noise(4, 4)) for i in range(3)]
    b = [save(tmp_path / "b" / f"{i}.jpg", noise(4, 4, 3), quality=95) for i in range(3)]
    data = load(f"pairs:{tmp_path / 'a'},{tmp_path / 'b'}")
    assert isinstance(data, Dataset) and len(a) == len(b) == len(data)
    np.testing.assert_array_equal(data.arrays["image"][1, ..., 0], a[1])
    batch = to_batch(data.arrays, data.rows(2, 0, 0))
    assert batch["target"].shape == (2, 4, 4, 3) and float(abs(batch["target"]).max()) <= 1
    save(tmp_path / "a" / "9.png", noise(4, 4))
    with pytest.raises(ValueError, match=r"a/9 has no namesake in .*b"):
        load(f"pairs:{tmp_path / 'a'},{tmp_path / 'b'}")


def test_a_pair_is_skipped_as_one(tmp_path):
    for name in ("a", "b"):
        for i in range(3):
            save(tmp_path / name / f"{i}.png", np.full((4, 4), i, np.uint8))
    (tmp_path / "a" / "0.png").write_bytes(b"bad")
    (tmp_path / "b" / "1.png").write_bytes(b"bad")
    spec, options = f"pairs:{tmp_path / 'a'},{tmp_path / 'b'}", DataOptions(skip_bad_images=True)
    data = load(spec, options)
    assert (data.arrays["image"] == 2).all() and (data.arrays["target"] == 2).all()
    (tmp_path / "a" / "2.png").unlink()
    (tmp_path / "b" / "2.png").unlink()
    with pytest.raises(ValueError, match="no pair is left"):
        load(spec, options)


def test_halves(tmp_path):
    pixels = save(tmp_path / "a" / "1.png", noise(4, 8, 3))
    data = load(f"halves:{tmp_path / 'a'}")
    np.testing.assert_array_equal(data.arrays["image"][0], pixels[:, :4])
    np.testing.assert_array_equal(data.arrays["target"][0], pixels[:, 4:])
    swapped = load(f"halves:{tmp_path / 'a'}:right")
    np.testing.assert_array_equal(swapped.arrays["target"], data.arrays["image"])
    np.testing.assert_array_equal(swapped.arrays["image"], data.arrays["target"])
    small = load(f"halves:{tmp_path / 'a'}", DataOptions(size=2))
    assert small.arrays["target"].shape == (1, 2, 2, 3)
    save(tmp_path / "b" / "1.png", noise(4, 7, 3))
    with pytest.raises(ValueError, match="cannot be halved"):
        load(f"halves:{tmp_path / 'b'}")


def test_unpaired_sets_have_orders_of_their_own(tmp_path):
    save(tmp_path / "one, two" / "1.png", noise(8, 8))
    data = load("unpaired:digits,digits:test")
    assert isinstance(data, Dataset)
    rows = data.rows(100, 0, 3)
    assert rows.shape == (100, 2)
    assert rows[:, 1].max() < len(data.arrays["other"]) < len(data)
    batch = to_batch(data.arrays, rows)
    np.testing.assert_array_equal(batch["label"], data.arrays["label"][rows[:, 0]])
    np.testing.assert_array_equal(batch["other_label"], data.arrays["other_label"][rows[:, 1]])
    with pytest.raises(ValueError, match="--size"):
        load("unpaired:digits,mnist5k")
    assert load("unpaired:digits,mnist5k", DataOptions(size=16)).shape == (16, 16, 1)
    twice = str(tmp_path / "one, two").replace(",", ",,")
    assert load(f"unpaired:digits,folder:{twice}").arrays["other"].shape == (1, 8, 8, 1)
    with pytest.raises(ValueError, match="one comma"):
        load("unpaired:digits")
