"""TensorFlow Datasets: a real set, prepared on disk without root, network or TensorFlow."""

import gzip
import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from gengen.cli import main
from gengen.data import Dataset, Stream, load, open_data, stream_batches
from gengen.data.idx import write_idx
from gengen.data.offline import fashion_folder
from gengen.data.options import DataOptions
from tests.processes import assert_same_checkpoint, environment

# A user's own set, as TFDS documents it: a builder that reads idx files.
BUILDER = '''
import sys
from pathlib import Path
import tensorflow_datasets as tfds
from gengen.data.idx import read_idx

class SmallDigits(tfds.core.GeneratorBasedBuilder):
    """Handwritten digits."""
    VERSION = tfds.core.Version("1.0.0")
    def _info(self):
        image = tfds.features.Image(shape=(28, 28, 1), encoding_format="png")
        label = tfds.features.ClassLabel(num_classes=10)
        features: Any = tfds.features.FeaturesDict({"image": image, "label": label})
        return tfds.core.DatasetInfo(builder=self, features=features)
    def _split_generators(self, dl_manager):
        folder = Path(sys.argv[1])
        return {split: self._generate_examples(folder, split) for split in ("train", "test")}
    def _generate_examples(self, folder, split):
        from PIL import Image
        images = read_idx(folder / f"{split}-images-idx3-ubyte.gz", rank=3)
        labels = read_idx(folder / f"{split}-labels-idx1-ubyte.gz", rank=1)
        for i, (image, label) in enumerate(zip(images, labels)):
            yield i, {"image": Image.fromarray(image), "label": int(label)}

builder = SmallDigits(data_dir=sys.argv[2], file_format="array_record")
builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(try_download_gcs=False)
)
assert "tensorflow" not in sys.modules
'''


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folder of a prepared set, and what is in it: 300 digits of mnist5k, and 40 more."""
    root = tmp_path_factory.mktemp("tfds")
    data = load("mnist5k")
    assert isinstance(data, Dataset)
    parts = {"train": slice(0, 300), "test": slice(300, 340)}
    for split, part in parts.items():
        write_idx(root / f"{split}-images-idx3-ubyte.gz", data.arrays["image"][part, ..., 0])
        write_idx(
            root / f"{split}-labels-idx1-ubyte.gz", data.arrays["label"][part].astype(np.uint8)
        )
    script = root / "code" / "build.py"
    script.parent.mkdir()
    script.write_text(BUILDER)
    words = [sys.executable, str(script), str(root), str(root / "sets")]
    done = subprocess.run(words, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    return root / "sets", {s: {k: v[p] for k, v in data.arrays.items()} for s, p in parts.items()}


@pytest.fixture
def sets(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared[0]))
    return prepared[1]


def test_a_set_by_its_name(sets):
    data = load("tfds:small_digits:test")
    assert isinstance(data, Dataset) and data.shape == (28, 28, 1) and len(data) == 40
    # TFDS shuffles as it writes: the same examples, in its own order.
    assert _sorted(data.arrays) == _sorted(sets["test"])
    assert data.fingerprint == load("tfds:small_digits:test").fingerprint
    assert data.classes == tuple("0123456789")


def _sorted(arrays):
    rows = zip(arrays["image"], arrays["label"], strict=True)
    return sorted((image.tobytes(), int(label)) for image, label in rows)


def test_splits_and_sizes(sets):
    assert len(load("tfds:small_digits")) == 300
    assert len(load("tfds:small_digits:train[:10%]")) == 30
    assert load("tfds:small_digits:test", DataOptions(size=8)).shape == (8, 8, 1)
    with pytest.raises(ValueError, match="no split 'valid': there are"):
        load("tfds:small_digits:valid")


def test_a_stream_gives_the_batches_of_the_set_in_memory(sets):
    whole = load("tfds:small_digits:test")
    stream = open_data("tfds:small_digits:test", DataOptions(stream=True))
    assert isinstance(whole, Dataset) and isinstance(stream, Stream)
    batches = stream_batches(stream, batch_size=16, seed=1, start=1, stop=4)
    for step, batch in enumerate(batches, start=1):
        rows = whole.rows(16, 1, step)
        np.testing.assert_array_equal(batch["image"], whole.arrays["image"][rows])
        np.testing.assert_array_equal(batch["label"], whole.arrays["label"][rows])


@pytest.mark.slow
def test_trains_from_it_without_tensorflow(sets, tmp_path):
    """In memory and streamed, the same parameters; nobody imports TensorFlow."""
    code = (
        "import sys; from gengen.cli import main; code = main(sys.argv[1:]);"
        "sys.exit(code or 7 * ('tensorflow' in sys.modules))"
    )
    words = ["train", "ddpm", "--data", "tfds:small_digits", "--steps", "3", "--set", "patch=4"]
    words += ["--set", "channels=8", "--set", "blocks=1", "--set", "groups=4", "--set", "T=10"]
    words += ["--set", "batch_size=8", "--preview-every", "100"]
    for name, more in (("a", []), ("b", ["--stream", "True"])):
        line = [*words, "--out", str(tmp_path / name), *more]
        run = subprocess.run(
            [sys.executable, "-c", code, *line], capture_output=True, text=True, env=environment()
        )
        assert run.returncode == 0, run.stderr
    assert_same_checkpoint(*(tmp_path / name / "checkpoints" / "3" for name in ("a", "b")))


def test_what_is_not_there_is_said_at_once(sets, tmp_path, capsys, monkeypatch):
    out = str(tmp_path / "run")
    assert main(["train", "ddpm", "--data", "tfds:no_such_set", "--out", out]) == 2
    assert "no such set" in capsys.readouterr().err
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert main(["train", "ddpm", "--data", "tfds:fashion_mnist", "--out", out]) == 2
    error = capsys.readouterr().err.strip()
    assert "is not prepared" in error and "--download" in error and "\n" not in error


# The stock builder unpacks and encodes with TensorFlow; this one reads gzip itself. What it writes
# is what the stock name reads.
FASHION = """
import sys
import tensorflow_datasets as tfds
from PIL import Image
from gengen.data.idx import read_idx
from tensorflow_datasets.image_classification import mnist

with tfds.core.registered.skip_registration():
    class FashionMNIST(mnist.FashionMNIST):
        name = "fashion_mnist"
        def _split_generators(self, dl_manager):
            files = {
                part: {k: dl_manager.download(mnist.FashionMNIST.URL + f"{name}-{k}-ubyte.gz")
                       for k in ("images-idx3", "labels-idx1")}
                for part, name in (("train", "train"), ("test", "t10k"))
            }
            return {part: self._generate_examples(**{"f": f}) for part, f in files.items()}
        def _generate_examples(self, f):
            images = read_idx(f["images-idx3"], rank=3)
            labels = read_idx(f["labels-idx1"], rank=1)
            for i, (image, label) in enumerate(zip(images, labels)):
                yield i, {"image": Image.fromarray(image), "label": int(label)}

builder = FashionMNIST(data_dir=sys.argv[2], file_format="array_record")
config = tfds.download.DownloadConfig(manual_dir=sys.argv[1], try_download_gcs=False)
builder.download_and_prepare(download_config=config)
"""
MADE = {"train": 1504176606, "t10k": 1504176627}  # when upstream's files were zipped


@pytest.mark.slow
def test_the_real_fashion_mnist_by_its_stock_name(tmp_path, monkeypatch):
    """Debian's files are upstream's but for what gzip wrote before them: TFDS checks SHA-256."""
    try:
        source = fashion_folder()
    except ValueError:
        pytest.skip("Fashion-MNIST is not installed (Debian: dataset-fashion-mnist)")
    manual = tmp_path / "manual"
    manual.mkdir()
    for part, made in MADE.items():
        for kind in ("images-idx3", "labels-idx1"):
            name = f"{part}-{kind}-ubyte"
            packed = (source / f"{name}.gz").read_bytes()
            assert gzip.decompress(packed)[:2] == b"\0\0"
            head = b"\x1f\x8b\x08\x08" + struct.pack("<I", made) + b"\x00\x03"
            (manual / f"{name}.gz").write_bytes(head + name.encode() + b"\0" + packed[10:])
    script = tmp_path / "code" / "build.py"
    script.parent.mkdir()
    script.write_text(FASHION)
    words = [sys.executable, str(script), str(manual), str(tmp_path / "sets")]
    done = subprocess.run(words, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    for split, num in (("train", 60000), ("test", 10000)):
        data, whole = load(f"tfds:fashion_mnist:{split}"), load(f"fashion:{split}")
        assert isinstance(data, Dataset) and isinstance(whole, Dataset)
        assert len(data) == num and _sorted(data.arrays) == _sorted(whole.arrays)


def test_omniglots_characters_keep_their_alphabets():
    """Of the labels that the set has, the character counts; its name has the alphabet's in it."""
    import tensorflow_datasets as tfds

    from gengen.data.tensorflow_datasets import _keys
    from gengen.metrics import one_shot

    builder: Any = tfds.builder_cls("omniglot")
    features: Any = tfds.features.FeaturesDict({
        "image": tfds.features.Image(shape=(105, 105, 3)),
        "alphabet": tfds.features.ClassLabel(names=["Greek", "Latin"]),
        "alphabet_char_id": np.int64,
        "label": tfds.features.ClassLabel(names=["Greek_0", "Greek_1", "Latin_0"]),
    })  # fmt: skip
    with tfds.testing.mock_data(num_examples=5):
        own: Any = tfds.builder("omniglot").info
    assert {*own.features} == {*features} and builder.name == "omniglot"
    assert _keys("tfds:omniglot", own) == ("image", "label")
    names = features["label"].names
    np.testing.assert_array_equal(one_shot.alphabets([2, 0, 1, 1], names), [1, 0, 0, 0])
