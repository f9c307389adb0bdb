from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from gengen.data import load, names
from gengen.types import InputError


def test_names():
    assert names()[:3] == ["digits", "mnist5k", "fashion"]
    assert {"mouse", "ring8", "grid25", "moons", "checkerboard", "swiss_roll"} < set(names())


@pytest.mark.parametrize("name", sorted(set(names()) - {"fashion"}))
def test_every_set_loads_and_train_is_the_default(name):
    train, test = load(name), load(f"{name}:test")
    assert (train.name, test.name) == (f"{name}:train", f"{name}:test")
    assert train.fingerprint == load(f"{name}:train").fingerprint != test.fingerprint
    assert train.shape == test.shape
    assert len(train) > len(test)


@pytest.mark.parametrize(
    ("spec", "guess"),
    [
        ("mnist", "'mnist5k'"),
        ("MNIST5K:test", "'mnist5k'"),
        ("fashion_mnist", "'fashion'"),
        ("ring", "'ring8'"),
        ("swissroll", "'swiss_roll'"),
    ],
)
def test_a_misspelt_name_is_guessed(spec, guess):
    with pytest.raises(InputError, match=f"did you mean {guess}") as caught:
        load(spec)
    assert all(name in str(caught.value) for name in names())


@pytest.mark.parametrize("spec", ["", ":test", "qqqqqq", "./data.mat"])
def test_an_unknown_name_lists_those_there_are(spec):
    with pytest.raises(InputError, match="there are digits, mnist5k") as caught:
        load(spec)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("spec", ["mnist5k:valid", "ring8:", "digits:Train", "digits:train:test"])
def test_an_unknown_split(spec):
    with pytest.raises(InputError, match="the splits are train, test"):
        load(spec)


def test_a_path(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros((3, 2)))
    assert len(load(str(path))) == 3
    with pytest.raises(InputError, match="no splits"):
        load(f"{path}:test")


def test_importing_is_light():
    code = (
        "import sys, gengen.data; heavy = {'sklearn', 'mlxtend', 'pandas', 'scipy.stats'}; "
        "assert not heavy & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
