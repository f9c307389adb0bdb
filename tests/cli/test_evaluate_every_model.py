"""`gengen evaluate RUN` without any option ends within minutes for every model, with whole rows."""

import json
import time

import numpy as np
import pytest

from gengen.cli import main
from gengen.data import load
from gengen.runs import discover
from tests.cli.test_every_model import RUNS

MINUTES = 4  # on 2 CPU cores
VECTORS = ("ar", "gmm")  # of those that could be trained on images, a long or no fit
SOME = ("cgan", "cvae", "ppca")  # the others take half an hour together
FLOORLESS = ("nats per example", "bits per dimension", "psnr", "ms_ssim")


def data_of(name):
    points = RUNS[name][0] in ("grid25", "moons", "mouse")
    return RUNS[name][0] if points else "mnist5k"


def cases():
    for name in RUNS:
        if "-" not in name or "vectors" in name:
            yield pytest.param(name, marks=pytest.mark.slow if name in SOME else pytest.mark.long)


@pytest.mark.parametrize("name", list(cases()))
def test_evaluation_ends_within_minutes(name, tmp_path, monkeypatch, capsys):
    """With networks of their usual size, hardly trained."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run, model = tmp_path / "run", name.split("-")[0]
    assert any(found.name == model for found in discover.models())
    train = ["train", model, "--data", data_of(name), "--steps", "12", "--out", str(run)]
    assert main(train) == 0, capsys.readouterr().err
    since = time.monotonic()
    assert main(["evaluate", str(run)]) == 0, capsys.readouterr().err
    assert time.monotonic() - since < 60 * MINUTES
    rows = json.loads((run / "evaluation.json").read_text())["rows"]
    assert rows
    for row in rows:
        assert np.isfinite(row["value"]) and row["error"] is not None, row
        assert row["n_fake"] or row["n_real"], row
        assert row["better"] in ("lower", "higher", "floor"), row
        assert (row["floor"] is None) == (row["name"] in FLOORLESS), row


@pytest.mark.slow
def test_a_folder_of_sixty_images_without_any_weights(tmp_path, monkeypatch, capsys):
    from PIL import Image

    monkeypatch.setenv("GENGEN_WEIGHTS_DIR", str(tmp_path / "weights"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(load("mnist5k").arrays["image"][:60]):
        Image.fromarray(image[..., 0]).resize((32, 32)).convert("RGB").save(folder / f"{i}.png")
    data = ["--data", f"folder:{folder}", "--size", "32"]
    assert main(["train", "vae", *data, "--steps", "3", "--out", "run"]) == 0
    since = time.monotonic()
    assert main(["evaluate", "run"]) == 0, capsys.readouterr().err
    assert time.monotonic() - since < 60 * MINUTES
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert found["extractor"] == "random-v1" and found["floor"].startswith("halves of")
    assert all(row["error"] is not None for row in found["rows"])
