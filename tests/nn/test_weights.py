"""Published weights: fetched from a server of this machine, imported, kept, refused."""

import hashlib
import json
import os
import sys
import threading
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from types import SimpleNamespace

import chex
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gengen import cli
from gengen.nn import vgg, weights
from gengen.types import InputError
from tests.nn.pth import as_stream
from tests.nn.random_weights import random_state_dict

# The real networks have 24 and 20 million parameters; these arrays stand for them.
SHAPES = {"features.0.weight": (2, 3, 3, 3), "features.0.bias": (2,)}
ARRAYS = random_state_dict(SHAPES, seed=0)
PTH = as_stream(ARRAYS | {"classifier.0.bias": np.zeros(4, np.float32)})


def from_torch(arrays):
    """Of the small network."""
    got = {k: np.shape(v) for k, v in arrays.items() if not k.startswith("classifier.")}
    if got != SHAPES:
        raise InputError(f"weights lack something: {got}")
    return {"params": {k: np.asarray(arrays[k]) for k in SHAPES}}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):  # pyright: ignore[reportIncompatibleMethodOverride]
        pass


@pytest.fixture
def served(tmp_path):
    """A folder, and the address that serves it."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/w.pth"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GENGEN_WEIGHTS_DIR", str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def small(served, home, monkeypatch):
    """The small network in vgg19's place; there is no PyTorch."""
    folder, url = served
    (folder / "w.pth").write_bytes(PTH)
    sha256 = hashlib.sha256(PTH).hexdigest()
    published = weights.Published(url, len(PTH), sha256, lambda: SHAPES, from_torch, "nothing does")
    monkeypatch.setitem(weights.PUBLISHED, "vgg19", published)
    monkeypatch.setitem(sys.modules, "torch", None)
    return SimpleNamespace(folder=folder, sha256=sha256)


def without_leftovers(folder):
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def test_is_fetched_checked_kept_and_loaded(small, home):
    said = []
    assert weights.fetch("vgg19", say=said.append) == home / "vgg19.safetensors"
    assert weights.path("vgg19") == home / "vgg19.safetensors"
    assert without_leftovers(home) == ["vgg19.safetensors"]
    variables, sha256 = weights.load("vgg19")
    assert sha256 == small.sha256
    chex.assert_trees_all_equal(variables, {"params": ARRAYS})
    assert set(load_file(home / "vgg19.safetensors")) == set(SHAPES)  # without the classifier
    (small.folder / "w.pth").unlink()
    weights.fetch("vgg19", say=said.append)  # asks nobody
    assert "is there already" in said[-1]


CONTENTS = {
    "cut": PTH[:-1], "longer": PTH + b"!", "empty": b"", "other": b"x" * len(PTH), "none": None,
}  # fmt: skip


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_another_file_is_not_kept(small, home, content):
    """Cut short, longer, empty, other bytes, none at all."""
    if content is None:
        (small.folder / "w.pth").unlink()
    else:
        (small.folder / "w.pth").write_bytes(content)
    words = "cannot fetch vgg19 .*not found" if content is None else "another file"
    with pytest.raises(weights.FetchError, match=words) as error:
        weights.fetch("vgg19")
    assert "weights import vgg19 FILE" in str(error.value) and "\n" not in str(error.value)
    assert without_leftovers(home) == []


def test_no_network_is_one_line_with_both_other_ways(home, monkeypatch, capsys):
    published = weights.PUBLISHED["inception"]._replace(url="http://127.0.0.1:9/w.pth")
    monkeypatch.setitem(weights.PUBLISHED, "inception", published)
    assert cli.main(["weights", "fetch", "inception"]) == cli.FAILED
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0 and said.startswith("gengen: ")
    for words in (
        "http://127.0.0.1:9/w.pth",
        "weights import inception FILE",
        "mnist-v1",
        "refused",
    ):
        assert words in said
    assert without_leftovers(home) == []


def test_a_file_is_imported_on_one_machine_and_its_copy_on_another(small, home, tmp_path, capsys):
    """Neither needs PyTorch, and the copy keeps the published file's hash."""
    code = cli.main(["weights", "import", "vgg19", str(small.folder / "w.pth")])
    assert code == cli.DONE and "the published weights" in capsys.readouterr().err
    other = tmp_path / "other"
    made = weights.import_file("vgg19", home / "vgg19.safetensors", into=other)
    assert made == other / "vgg19.safetensors"
    assert made.read_bytes() != b"" and load_file(made).keys() == SHAPES.keys()
    (home / "vgg19.safetensors").unlink()
    code = cli.main(["weights", "import", "vgg19", str(made), "--dir", str(tmp_path / "third")])
    assert code == cli.DONE
    assert f"GENGEN_WEIGHTS_DIR={tmp_path / 'third'}" in capsys.readouterr().err
    os.replace(tmp_path / "third" / "vgg19.safetensors", home / "vgg19.safetensors")
    variables, sha256 = weights.load("vgg19")
    assert sha256 == small.sha256
    chex.assert_trees_all_equal(variables, {"params": ARRAYS})


def test_an_unknown_file_needs_any_hash_and_goes_by_its_own(small, home, tmp_path):
    plain = tmp_path / "mine.safetensors"
    save_file(ARRAYS, plain)
    with pytest.raises(InputError, match="has SHA-256 .*, not .*--any-hash"):
        weights.import_file("vgg19", plain)
    weights.import_file("vgg19", plain, any_hash=True)
    assert weights.load("vgg19")[1] == hashlib.sha256(plain.read_bytes()).hexdigest()
    small.folder.joinpath("w.pth").write_bytes(b"pickled by someone")
    with pytest.raises(InputError, match="not a PyTorch file of arrays alone"):
        weights.import_file("vgg19", small.folder / "w.pth", any_hash=True)


def test_a_changed_copy_does_not_pass_for_the_published_file(small, home, tmp_path):
    """Its header says the published hash, but its arrays are not those that the header hashes."""
    kept, forged = weights.import_file("vgg19", small.folder / "w.pth"), tmp_path / "f.safetensors"
    facts = json.dumps(weights._facts_of(kept))
    changed = ARRAYS | {"features.0.bias": ARRAYS["features.0.bias"] + 1}
    save_file(changed, forged, metadata={"gengen": facts})
    with pytest.raises(InputError, match="--any-hash"):
        weights.import_file("vgg19", forged)
    content = bytearray(kept.read_bytes())
    content[-1] ^= 64  # a bit of the last float
    kept.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        weights.load("vgg19")


def header(length, text=b"{}"):
    return length.to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        header(2**62),
        header(2**40, b"{" * 4096),
        header(2, b"{}") + b"rest",
        header(2, b"[]"),
        header(58, b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16000]}}' + b"0" * 16),
        header(61, b'{"a":{"dtype":"F32","shape":[1e9],"data_offsets":[0,16]}}    ' + b"0" * 16),
        header(56, b'{"a":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}} ' + b"0" * 8),
        header(17, b'{"__metadata__":1'),
    ],
)
def test_what_is_no_safetensors_file_is_refused(small, home, tmp_path, content):
    file = tmp_path / "w.safetensors"
    file.write_bytes(content)
    with pytest.raises(InputError) as error:
        weights.import_file("vgg19", file, any_hash=True)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    assert without_leftovers(home) == []


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["weights", "import", "vgg19"], "name the file"),
        (["weights", "fetch", "vgg19", "w.pth"], "fetch takes no file"),
        (["weights", "import", "vgg19", "nowhere.pth"], "nowhere.pth: no such file"),
        (["weights", "import", "vgg19", __file__], "read from .pth, .pt or .safetensors"),
    ],
)
def test_wrong_usage_is_one_line(home, capsys, arguments, words):
    assert cli.main(arguments) == cli.WRONG_USAGE
    said = capsys.readouterr().err.strip()
    assert words in said and said.count("\n") == 0


def test_an_unknown_name_and_missing_weights_name_the_cure(home):
    with pytest.raises(InputError, match="'resnet': they are one of inception, vgg19"):
        weights.path("resnet")
    with pytest.raises(InputError, match="gengen weights fetch inception.*pytorch-fid.*mnist-v1"):
        weights.load("inception")


def test_where_weights_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("GENGEN_WEIGHTS_DIR", str(tmp_path / "w"))
    assert weights.folder() == tmp_path / "w"
    monkeypatch.delenv("GENGEN_WEIGHTS_DIR")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert weights.folder() == tmp_path / "data" / "gengen" / "weights"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.folder() == tmp_path / ".local" / "share" / "gengen" / "weights"


def test_a_folder_that_cannot_be_written_is_named(small, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write to .*file"):
        weights.fetch("vgg19", into=tmp_path / "file" / "below")


def test_what_is_published_is_pinned():
    inception = weights.PUBLISHED["inception"]
    assert inception.size == 95_628_359 and inception.sha256.startswith("6726825d")
    assert inception.url.endswith("6726825d.pth") and len(inception.sha256) == 64
    assert weights.PUBLISHED["vgg19"].sha256.startswith("dcbb9e9d")
    assert all(p.url.startswith("https://") for p in weights.PUBLISHED.values())
    assert weights.PUBLISHED["vgg19"].shapes is vgg.torch_shapes
