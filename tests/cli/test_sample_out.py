"""What `gengen sample` writes, and what it shows meanwhile."""

import numpy as np
import pytest
from PIL import Image

import gengen
from gengen.cli import main
from gengen.data import load, to_uint8
from gengen.density import gmm
from gengen.runs import sampling

VAE = {"channels": (4, 8), "hidden": (8,), "latent_shape": (2,), "batch_size": 16}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    out = tmp_path_factory.mktemp("images") / "run"
    return gengen.train("vae", "digits", config=VAE, steps=1, out=out)


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    out = tmp_path_factory.mktemp("points") / "run"
    return gengen.train("gmm", "mouse", config={"num_components": 2}, out=out)


def sample(run, *words):
    return main(["sample", str(run.path), *map(str, words)])


def in_folder(folder):
    return [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]


def test_a_folder_has_one_file_for_each_image(images, tmp_path, capsys):
    folder = tmp_path / "new" / "samples.v1"  # a suffix, but a slash at the end
    assert sample(images, "--num", 3, "--out", f"{folder}/") == 0, capsys.readouterr().err
    assert sorted(p.name for p in folder.iterdir()) == ["000000.png", "000001.png", "000002.png"]
    want = to_uint8(images.sample(3))[..., 0]
    np.testing.assert_array_equal(in_folder(folder), want)
    assert sample(images, "--out", folder) == 2  # it exists, so that it needs no slash
    assert "not empty" in capsys.readouterr().err
    (folder / "note.txt").write_text("mine")
    assert sample(images, "--num", 2, "--seed", 1, "--out", folder, "--overwrite") == 0
    assert sorted(p.name for p in folder.iterdir()) == ["000000.png", "000001.png", "note.txt"]
    line = ["evaluate", str(folder), "--data", "digits:test", "--metrics", "nearest", "--no-floor"]
    assert main(line) == 0, capsys.readouterr().err


def test_a_name_without_suffix_is_a_folder(images, tmp_path, capsys):
    assert sample(images, "--num", 1, "--out", tmp_path / "samples") == 0
    assert len(in_folder(tmp_path / "samples")) == 1
    assert sample(images, "--num", 1, "--out", tmp_path / "x.npz") == 0
    (tmp_path / "file").write_bytes(b"")
    for out, message in (
        (tmp_path / "x.gif", "must end in .png or .npz, or be a folder"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "x.npz", "--overwrite"),
        (tmp_path / "none" / "x.npz", "no directory"),
    ):
        assert sample(images, "--num", 1, "--out", out) == 2
        assert message in capsys.readouterr().err


def test_vectors_have_no_folder(points, tmp_path, capsys):
    assert sample(points, "--out", tmp_path / "samples") == 2
    error = capsys.readouterr().err
    assert "samples.npz keeps them" in error and not (tmp_path / "samples").exists()


def test_as_many_samples_as_asked_for_are_counted(points, tmp_path, monkeypatch, capsys):
    """600 are sampled as 3 × 256, of which the last 168 are not given."""
    bars = []

    class Bar(sampling.tqdm):
        def __init__(self, *args, **words):
            bars.append(self)
            super().__init__(*args, **words | {"disable": False})

    monkeypatch.setattr(sampling, "tqdm", Bar)
    chunks, real = [], gmm.sample
    monkeypatch.setattr(gmm, "sample", lambda *a, **k: chunks.append(a[3]) or real(*a, **k))
    assert sample(points, "--num", 600, "--out", tmp_path / "x.npz") == 0
    assert chunks == [256] * 3 and len(np.load(tmp_path / "x.npz")["arr_0"]) == 600
    (bar,) = bars
    assert (bar.total, bar.n) == (600, 600)
    said = capsys.readouterr().err
    assert "sampling 600 samples ..." in said and "600 samples: " in said


def test_more_samples_than_conditions(tmp_path, capsys):
    """Each held-out example conditions one sample, and then each of them another."""
    config = VAE | {"known_region": (0, 4, 0, 8)}
    run = gengen.train("cvae", "digits", config=config, steps=1, out=tmp_path / "run")
    few = tmp_path / "few.npz"
    np.savez(few, image=load("digits:test").arrays["image"][:3])
    assert sample(run, "--num", 7, "--data", few, "--out", tmp_path / "x.npz") == 0
    assert "7 samples, conditioned on 3 examples" in capsys.readouterr().err
    x = np.load(tmp_path / "x.npz")["arr_0"]
    assert len(x) == 7
    np.testing.assert_array_equal(x[0, :4], x[3, :4])  # the known region is kept
    assert not np.array_equal(x[0, :4], x[1, :4])
