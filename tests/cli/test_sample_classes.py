"""Classes to sample: by number, by name, and as labels of any integer type."""

import json

import numpy as np
import pytest

import gengen
from gengen.autoregressive import pixelcnn
from gengen.cli import main
from gengen.data import Dataset, load
from gengen.gan import cgan
from gengen.runs import conditions
from gengen.types import InputError

NAMES = ("Ankle boot", "Bag", "3")  # sorted, as they are numbered: "3", "Ankle boot", "Bag"
SMALL = {"channels": (), "hidden": (8,), "latent_dim": 4, "batch_size": 16}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    digits = load("digits").arrays
    rows = digits["label"] < 3
    labels = np.array(NAMES)[digits["label"][rows]]
    data = Dataset.of(digits["image"][rows], labels)
    return gengen.train("cgan", data, config=SMALL, steps=1, out=tmp_path_factory.mktemp("a") / "r")


@pytest.fixture
def asked(monkeypatch):
    """The conditions that samples are drawn with."""
    seen, sample = [], cgan.sample

    def call(cfg, variables, key, num, *, condition=None):
        seen.append(np.asarray(condition))
        return sample(cfg, variables, key, num, condition=condition)

    monkeypatch.setattr(cgan, "sample", call)
    return seen


def test_classes_by_name_or_number(run, asked, tmp_path, capsys):
    assert json.loads((run.path / "config.json").read_text())["classes"] == sorted(NAMES)
    line = ["sample", str(run.path), "--num", "8", "--out", str(tmp_path / "x.png"), "--classes"]
    assert main([*line, "Bag", "ankle BOOT", "0", "3"]) == 0, capsys.readouterr().err
    np.testing.assert_array_equal(asked[0], [2, 1, 0, 0] * 2)  # "3" is a name before a number


@pytest.mark.parametrize(
    "classes, message",
    [("Bog", "did you mean Bag"), ("5", "knows 0 to 2"), ("-1", "knows 0 to 2"), ("", "called ''")],
)
def test_unknown_classes_are_refused_in_one_line(run, tmp_path, capsys, classes, message):
    line = ["sample", str(run.path), "--out", str(tmp_path / "x.png"), f"--classes={classes}"]
    assert main(line) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error


def test_classes_from_python(run, asked):
    run.sample(4, classes=["Bag", 0])
    run.sample(2, classes="Bag")
    run.sample(2, classes=np.int64(1))
    for got, want in zip(asked, ([2, 0, 2, 0], [2, 2], [1, 1]), strict=True):
        np.testing.assert_array_equal(got, want)
    for classes, message in (([], "empty"), (3, "knows 0 to 2"), ("Bags", "did you mean Bag")):
        with pytest.raises(InputError, match=message):
            run.sample(2, classes=classes)
    with pytest.raises(InputError, match="choose one"):
        run.sample(1, classes=0, condition=[0])


@pytest.mark.parametrize("dtype", [list, bool, np.uint8, np.int16, np.int64, np.uint64])
def test_conditions_of_any_integer_type(run, dtype):
    want = run.sample(2, condition=np.array([1, 0], np.int32))
    condition = [1, 0] if dtype is list else np.array([1, 0]).astype(dtype)
    np.testing.assert_array_equal(run.sample(2, condition=condition), want)


def test_a_label_beyond_32_bits_is_refused(run):
    with pytest.raises(InputError, match="4294967296"):
        run.sample(1, condition=np.array([2**32]))  # whose lower 32 bits are 0


def test_a_model_without_classes_says_what_to_train():
    with pytest.raises(InputError, match="not conditioned on a class: train it with --set num_cl"):
        conditions.chosen(pixelcnn, pixelcnn.Config(), [3], 1)
