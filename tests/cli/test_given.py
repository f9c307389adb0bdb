"""`gengen sample --given`: inverse problems from the command line, on a tiny run."""

import numpy as np
import pytest
from PIL import Image

from gengen.cli import main

SHAPE = (8, 8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "ddpm"
    line = ["train", "ddpm", "--data", "digits", "--steps", "2", "--out", str(out)]
    for word in ("channels=8", "num_blocks=1", "num_groups=4", "T=12"):
        line += ["--set", word]
    assert main(line) == 0
    return str(out)


@pytest.fixture
def image(tmp_path):
    def write(height=8, width=8):
        x = np.random.default_rng(0).integers(0, 256, (height, width)).astype(np.uint8)
        Image.fromarray(x).save(tmp_path / "given.png")
        return x, str(tmp_path / "given.png")

    return write


@pytest.mark.parametrize(
    "words",
    [
        ["--operator", "inpaint", "--method", "replacement"],
        ["--operator", "superres", "--factor", "4", "--degrade"],
        ["--operator", "deblur", "--degrade", "--method", "dps", "--steps", "3"],
        ["--operator", "motion", "--length", "3", "--method", "twisted"],
    ],
)
def test_a_row_of_given_draws_mean_and_deviation(run, image, tmp_path, capsys, words):
    _, path = image()
    out = tmp_path / "x.png"
    line = ["sample", run, "--given", path, "--num", "3", "--out", str(out), *words]
    assert main(line) == 0
    assert "3 samples by" in capsys.readouterr().err
    picture = np.asarray(Image.open(out))
    columns, scale, gap = 1 + 3 + 2, 3, 2
    assert picture.shape[:2] == (8 * scale, (columns * (8 + gap) - gap) * scale)


def cells(path, columns=5):
    picture = np.asarray(Image.open(path))[::3, ::3].astype(float)
    return [picture[:, 10 * i : 10 * i + 8] for i in range(columns)]


def test_the_known_half_is_kept_and_the_picture_is_of_its_draws(run, image, tmp_path):
    x, path = image()
    out = tmp_path / "x.png"
    line = ["sample", run, "--given", path, "--num", "2", "--out", str(out)]
    assert main([*line, "--method", "replacement"]) == 0
    given, a, b, mean, deviation = cells(out)
    np.testing.assert_array_equal(given, x)
    for draw in (a, b):
        np.testing.assert_allclose(draw[:4], x[:4], atol=1)
    np.testing.assert_allclose(mean, (a + b) / 2, atol=1)
    np.testing.assert_allclose(deviation, np.minimum(np.abs(a - b) * 2**0.5, 255), atol=3)
    assert np.abs(a - b)[4:].max() > 5


def test_a_mask_says_what_is_known(run, image, tmp_path):
    x, path = image()
    mask = np.zeros(SHAPE, np.uint8)
    mask[:, :3] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    out = tmp_path / "x.png"
    line = ["sample", run, "--given", path, "--mask", str(tmp_path / "mask.png"), "--num", "2"]
    assert main([*line, "--method", "replacement", "--out", str(out)]) == 0
    _, a, b, _, _ = cells(out)
    np.testing.assert_allclose(a[:, :3], x[:, :3], atol=1)
    assert np.abs(a - b)[:, 3:].max() > 5


def test_a_small_image_is_taken_as_it_is(run, image, tmp_path):
    _, path = image(4, 4)
    line = ["sample", run, "--given", path, "--operator", "superres", "--num", "1"]
    assert main([*line, "--out", str(tmp_path / "x.png")]) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--operator", "superres"], "must be 4 × 4"),
        (["--operator", "grey"], "no colours"),
        (["--operator", "superres", "--factor", "3", "--degrade"], "factor = 3"),
        (["--interpolate"], "one picture at a time"),
        (["--out", "x.npz"], "must end in .png"),
    ],
)
def test_what_cannot_be_is_one_line(run, image, tmp_path, capsys, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    _, path = image()
    assert main(["sample", run, "--given", path, *words]) == 2
    error = capsys.readouterr().err.strip()
    assert says in error and "\n" not in error


def test_options_without_an_image_are_refused(run, capsys):
    assert main(["sample", run, "--operator", "deblur"]) == 2
    assert "give an image" in capsys.readouterr().err
