from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from gengen.data import load, names
from gengen.data.sources import SPLITS
from gengen.types import InputError
from tests.data.pictures import noise, save


def test_names():
    assert names()[:3] == ["digits", "mnist5k", "fashion"]
    assert {"mouse", "ring8", "grid25", "moons", "checkerboard", "swiss_roll"} < set(names())


@pytest.mark.parametrize("name", sorted(set(names()) - {"fashion", "usps"}))
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
        ("MNIST:test", "'mnist5k'"),
        ("fashion_mnist", "'fashion'"),
        ("ring", "'ring8'"),
        ("swissroll", "'swiss_roll'"),
    ],
)
def test_a_misspelt_name_is_guessed(spec, guess):
    with pytest.raises(InputError, match=f"did you mean {guess}") as caught:
        load(spec)
    assert all(name in str(caught.value) for name in names())


def test_names_in_upper_case():
    assert load("DIGITS:test").fingerprint == load("digits:test").fingerprint
    assert load("Digits").name == "digits:train"


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
    with pytest.raises(InputError, match="no array named x_test or test_images .there is: x"):
        load(f"{path}:test")


def test_the_path_of_a_folder(tmp_path, monkeypatch):
    for split in SPLITS:
        save(tmp_path / "photos" / split / "0.png", noise(4, 6, 3))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    data = load("photos:train")
    assert data.name == "folder:photos:train"
    for spec in ("photos/train", "./photos/train/", str(tmp_path / "photos" / "train")):
        assert load(spec).fingerprint == data.fingerprint and load(spec).name == f"folder:{spec}"
    assert load("folder:~/photos/test").fingerprint == load("photos:test").fingerprint
    with pytest.raises(InputError, match="photos:train"):
        load("photos")


def test_a_folder_without_images(tmp_path):
    with pytest.raises(InputError, match="holds no image"):
        load(str(tmp_path))
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 2)))
    with pytest.raises(InputError, match="did you mean the array .*a.npz"):
        load(str(tmp_path))


def test_a_file_that_is_no_array(tmp_path):
    for name, message in (("a.jpg", "one image: pass its folder"), ("a.mat", "neither .npz nor")):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(InputError, match=message):
            load(str(tmp_path / name))


def test_paths_that_are_close_are_guessed(tmp_path, monkeypatch):
    save(tmp_path / "photos" / "0.png", noise(4, 6, 3))
    monkeypatch.chdir(tmp_path)
    for name in ("photo", "./photo", "Photoss"):  # closer than "photographs"
        with pytest.raises(InputError, match="no data set, file or folder .*mean 'photos'"):
            load(name)


def test_a_folder_for_validation_is_a_split_and_no_class(tmp_path):
    for split in ("train", "val"):
        save(tmp_path / split / "0.png", noise(4, 6, 3))
    with pytest.raises(InputError, match="folders train and val: say which"):
        load(str(tmp_path))
    assert len(load(f"{tmp_path}:train")) == 1


def test_importing_is_light():
    code = (
        "import sys, gengen.data; heavy = {'sklearn', 'mlxtend', 'pandas', 'scipy.stats'}; "
        "assert not heavy & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
