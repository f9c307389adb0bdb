"""Weights in PyTorch's files: read as they were written, and nothing in them is ever called."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from gengen.nn import pickled
from gengen.types import InputError
from tests.nn import pth

ARRAYS = {
    "conv.weight": np.random.default_rng(0).normal(size=(4, 3, 2, 2)).astype(np.float32),
    "conv.bias": np.arange(4, dtype=np.float32),
    "bn.num_batches_tracked": np.array(7),
    "empty": np.zeros((0, 3), np.float32),
}
FORMS = {"zip": pth.as_zip, "stream": pth.as_stream}


@pytest.mark.parametrize("form", FORMS)
def test_arrays_are_read_as_they_were_written(form, tmp_path):
    file = tmp_path / "w.pth"
    file.write_bytes(FORMS[form](ARRAYS))
    found = pickled.read(file)
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_views_of_one_storage_are_read_by_their_strides(tmp_path):
    numbers = np.arange(12, dtype=np.float32)
    reference = pth.Reference("storage", pth.STORAGES["f4"], "0", "cpu", 12)
    program = pth.dumps(
        {
            "transposed": pth.Tensor(reference, 0, (3, 4), (1, 3)),
            "part": pth.Tensor(reference, 5, (2, 2), (4, 1)),
        }
    )
    (tmp_path / "w.pth").write_bytes(pth.as_zip({"all": numbers}, program))
    found = pickled.read(tmp_path / "w.pth")
    np.testing.assert_array_equal(found["transposed"], numbers.reshape(4, 3).T)
    np.testing.assert_array_equal(found["part"], [[5, 6], [9, 10]])


CALLED = []


def call(word):
    CALLED.append(word)


class Malicious:
    """Calls a function of this file when it is unpickled."""

    def __reduce__(self):
        return call, ("here",)


class Attribute:
    """Calls a method of what the pickle itself has made."""

    def __reduce__(self):
        return getattr, ([], "append")


def opcodes(text):
    return b"\x80\x02" + text


PROGRAMS = {
    "a function": pickle.dumps(Malicious(), 2),
    "a method": pickle.dumps(Attribute(), 2),
    "a newer protocol's name": pickle.dumps(Malicious(), 4),
    "os.system": opcodes(b"cposix\nsystem\nX\x02\x00\x00\x00ls\x85R."),
    "an instance": opcodes(b"(cos\nsystem\no."),
    "an extension": opcodes(b"\x82\x01."),
    "another function of PyTorch": opcodes(b"ctorch._utils\n_rebuild_qtensor\n)R."),
    "a name with a dot": opcodes(b"ctorch\nFloatStorage.__init__\n)R."),
    "a skip in the memo": opcodes(b"}r\xff\xff\xff\x7f."),
    "no dict": opcodes(b"]."),
    "a number": opcodes(b"}X\x01\x00\x00\x00aK\x01s."),
    "another reference": opcodes(b"X\x01\x00\x00\x00aQ."),
    "nothing": b"",
    "an end too early": opcodes(b"}X\x05\x00\x00\x00a"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_other_pickles_are_refused_and_run_nothing(name, tmp_path, monkeypatch):
    monkeypatch.setattr("os.system", lambda line: CALLED.append(line))
    monkeypatch.setattr("posix.system", lambda line: CALLED.append(line))
    machine = {"little_endian": True}
    start = b"".join(pth.dumps(part) for part in (pth.MAGIC, pth.PROTOCOL, machine))
    program = PROGRAMS[name] or b" "
    contents = (pth.as_zip({}, program), start + program, program)
    for content in contents:
        (tmp_path / "w.pth").write_bytes(content)
        with pytest.raises(InputError, match="not a PyTorch file of arrays alone") as error:
            pickled.read(tmp_path / "w.pth")
        assert "\n" not in str(error.value)
    assert CALLED == []
    pickle.loads(PROGRAMS["a function"])  # an ordinary reader calls it
    assert CALLED.pop() == "here"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a function", "names .*test_pickled call"),
        ("os.system", "names posix system"),
        ("another function of PyTorch", "names torch._utils _rebuild_qtensor"),
        ("an extension", "the opcode EXT1"),
        ("a skip in the memo", "skips in its memo"),
    ],
)
def test_a_pickle_is_refused_before_it_runs(name, says):
    with pytest.raises(ValueError, match=says):
        pickled._check(io.BytesIO(PROGRAMS[name]))


@pytest.mark.parametrize("name", ["a function", "os.system", "another function of PyTorch"])
def test_a_pickle_that_runs_finds_no_other_names(name):
    with pytest.raises(ValueError, match="its pickle names"):
        pickled._Unpickler(io.BytesIO(PROGRAMS[name])).load()


@pytest.mark.parametrize(
    "offset, size, stride",
    [
        (0, (13,), (1,)),
        (1, (3, 4), (4, 1)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (2**40,), (0,)),
        (0, (2, 2), (1,)),
        (0, (2.0,), (1,)),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(offset, size, stride, tmp_path):
    reference = pth.Reference("storage", pth.STORAGES["f4"], "0", "cpu", 12)
    program = pth.dumps({"a": pth.Tensor(reference, offset, size, stride)})
    content = pth.as_zip({"all": np.arange(12, dtype=np.float32)}, program)
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(InputError, match="not a PyTorch file"):
        pickled.read(tmp_path / "w.pth")


@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_file_is_refused_or_read_whole(form, tmp_path):
    """Cut short anywhere, or with bytes changed: an InputError, or arrays; never another error."""
    content, file = FORMS[form](ARRAYS), tmp_path / "w.pth"
    rng = np.random.default_rng(1)
    for _ in range(60):
        changed = bytearray(content[: int(rng.integers(len(content)))])
        file.write_bytes(changed)
        with pytest.raises(InputError):
            pickled.read(file)
        changed = bytearray(content)
        changed[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        file.write_bytes(changed)
        try:
            pickled.read(file)
        except InputError as error:
            assert "\n" not in str(error)


def test_a_compressed_archive_is_refused(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", pth.dumps({}))
        archive.writestr("w/data/0", bytes(10_000_000))
    (tmp_path / "w.pth").write_bytes(file.getvalue())
    with pytest.raises(InputError, match="compressed"):
        pickled.read(tmp_path / "w.pth")
    with pytest.raises(InputError, match="cannot be read"):
        pickled.read(tmp_path / "nothing.pth")
