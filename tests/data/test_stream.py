"""Streams: the batches of the set in memory, from any step; what streams, and when."""

import pickle

import numpy as np
import pytest

from gengen.data import Dataset, Stream, load, open_data, stream_batches
from gengen.data.options import DataOptions
from tests.data.pictures import noise


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
    x = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)
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
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(11, 3)))
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
