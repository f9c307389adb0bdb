from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from gengen.data import memory
from gengen.data.idx import read_idx, write_idx
from gengen.types import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
PLAIN = struct.pack(">4B3I", 0, 0, 8, 3, 5, 4, 3) + IMAGES.tobytes()


@pytest.mark.parametrize("name", ["a-idx3-ubyte", "a-idx3-ubyte.gz"])
@pytest.mark.parametrize("array", [IMAGES, np.arange(7, dtype=np.uint8)])
def test_what_is_written_is_read(tmp_path, name, array):
    write_idx(tmp_path / name, array)
    read = read_idx(tmp_path / name, rank=array.ndim)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, array)


def test_the_format_is_the_published_one(tmp_path):
    write_idx(tmp_path / "a", IMAGES)
    assert (tmp_path / "a").read_bytes() == PLAIN


def test_compression_is_told_by_content(tmp_path):
    (tmp_path / "a").write_bytes(gzip.compress(PLAIN, mtime=0))
    np.testing.assert_array_equal(read_idx(tmp_path / "a", rank=3), IMAGES)


def test_only_bytes_are_written(tmp_path):
    with pytest.raises(InputError, match="uint8"):
        write_idx(tmp_path / "a", np.zeros(3))


def header(*shape: int, kind: int = 8) -> bytes:
    return struct.pack(f">4B{len(shape)}I", 0, 0, kind, len(shape), *shape)


HUGE = 2**32 - 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with nothing"),
        (b"PK\x03\x04" + bytes(40), "begins with 50 4b 03 04, not 00 00 08 03"),
        (header(60), "no idx file"),
        (header(5, 4, 3, kind=13) + bytes(240), "no idx file of uint8"),
        (PLAIN[:9], "within its header"),
        (header(5, 0, 3), "no data"),
        (PLAIN[:-1], "at most 59"),
        (PLAIN + b"\0", "goes on after its of 60"),
        (header(HUGE, HUGE, HUGE), "at most 0"),
        (gzip.compress(PLAIN, mtime=0)[:-20], "cannot be read"),
        (gzip.compress(PLAIN[:-1], mtime=0), "ends after 59 of 60"),
        (gzip.compress(PLAIN + b"\0", mtime=0), "goes on"),
        (gzip.compress(header(HUGE, HUGE, HUGE), mtime=0), "at most"),
        (
            gzip.compress(PLAIN, mtime=0)[:30] + b"\xff\xff" + gzip.compress(PLAIN, mtime=0)[32:],
            "fetch the file",
        ),
    ],
)
def test_broken_files_are_refused_by_name_in_one_line(tmp_path, content, message):
    (tmp_path / "a-file").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_idx(tmp_path / "a-file", rank=3)
    assert "a-file" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_flipped_byte_of_a_gzip_file_is_noticed_or_harmless(tmp_path):
    whole = gzip.compress(PLAIN, mtime=0)
    for i in range(len(whole)):
        (tmp_path / "a").write_bytes(whole[:i] + bytes([whole[i] ^ 0x10]) + whole[i + 1 :])
        try:
            read = read_idx(tmp_path / "a", rank=3)
        except InputError:
            continue
        np.testing.assert_array_equal(read, IMAGES)  # a field of the header that is not used


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="none.gz"):
        read_idx(tmp_path / "none.gz", rank=3)


def test_more_than_memory(tmp_path, monkeypatch):
    write_idx(tmp_path / "a", IMAGES)
    monkeypatch.setattr(memory, "available_memory", lambda: 100)
    with pytest.raises(InputError, match="memory available"):
        read_idx(tmp_path / "a", rank=3)
