"""`gengen evaluate`: what is scored against what, with which floor."""

import json

import numpy as np
import pytest

from gengen.cli import main
from gengen.data import load
from gengen.metrics import extractors, statistics
from gengen.runs import evaluation
from tests.processes import settings


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("GENGEN_WEIGHTS_DIR", str(tmp_path / "weights"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def evaluate(capsys, *words):
    capsys.readouterr()
    assert main(["evaluate", *map(str, words), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    return found, {score["metric"]: score for score in found["scores"]}


def test_a_run_of_points_against_its_own_data(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = ["train", "wgan", "--data", "grid25", "--out", "run", "--steps", "2"]
    assert main([*train, *settings(("hidden=8,8", "latent_dim=2", "critic_batch_size=8"))]) == 0
    about, scores = evaluate(capsys, "run", "--metrics", "modes,fid,kid,sw,prdc", "--num", 300)
    assert about["real"].startswith("grid25") and about["extractor"] == "identity"
    assert scores["modes found"]["value"] < scores["modes found"]["floor"] == 25
    assert scores["fid[identity]"]["value"] > 10 * scores["fid[identity]"]["floor"]
    for score in scores.values():
        assert score["n_fake"] == 300
    again, _ = evaluate(capsys, "run", "--metrics", "modes,fid,kid,sw,prdc", "--num", 300)
    assert again == about  # the same seed, the same numbers; features from the cache
    assert main(["evaluate", "run", "--num", "300"]) == 0
    assert "fid[identity]" in capsys.readouterr().out


def test_files_of_images_and_of_statistics(tmp_path, capsys):
    """Held-out digits come out at their floor; noise above it; statistics stand for a set."""
    images = load("mnist5k:test").arrays["image"]
    np.savez(tmp_path / "digits.npz", image=images[:200])
    noise = np.random.default_rng(0).integers(0, 256, (200, 28, 28, 1), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", image=noise)
    words = ["--data", "mnist5k", "--metrics", "fid,kid,is,nearest,fid_infinity"]
    about, digits = evaluate(capsys, tmp_path / "digits.npz", *words)
    _, noisy = evaluate(capsys, tmp_path / "noise.npz", *words)
    fid = "fid[mnist-v1]"
    assert digits[fid]["n_real"] == 4500 and digits[fid]["n_fake"] == 200
    assert digits[fid]["value"] == pytest.approx(digits[fid]["floor"], rel=0.5)
    near = "distance to the nearest real example"
    assert digits[near]["value"] == pytest.approx(digits[near]["floor"], rel=0.1)
    assert noisy[near]["value"] > 1.5 * noisy[near]["floor"]
    assert noisy["fid∞[mnist-v1]"]["value"] > 10 * digits["fid∞[mnist-v1]"]["value"]
    assert noisy[fid]["value"] > 10 * noisy[fid]["floor"]
    assert noisy["is[mnist-v1]"]["value"] < digits["is[mnist-v1]"]["value"]
    assert about["extractor_sha256"] and about["real_fingerprint"] and about["gengen"]

    extractor = extractors.load("mnist-v1")
    whole = evaluation.examples("mnist5k", load("mnist5k"), extractor)
    kept = statistics.of_features(whole.features, extractor.name, extractor.sha256)
    statistics.save(tmp_path / "mnist.npz", kept)
    words = ["--data", tmp_path / "mnist.npz", "--metrics", "fid"]
    _, same = evaluate(capsys, tmp_path / "noise.npz", *words)
    assert same[fid]["value"] == pytest.approx(noisy[fid]["value"], rel=1e-6)


@pytest.mark.parametrize(
    "words, message",
    [
        (["x.npz"], "--data"),
        (["x.npz", "--data", "mnist5k", "--metrics", "fidd"], "no metric fidd"),
        (["x.npz", "--data", "digits"], "gengen weights fetch inception"),
        (["x.npz", "--data", "mnist5k", "--metrics", "modes"], "modes"),
        (["nothing.npz", "--data", "mnist5k"], "nothing.npz"),
        (["small.npz", "--data", "mnist5k"], "8"),
    ],
)
def test_bad_input_is_one_line(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", image=np.zeros((9, 28, 28, 1), np.uint8))
    np.savez("small.npz", image=np.zeros((9, 8, 8, 1), np.uint8))
    assert main(["evaluate", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error and error.startswith("gengen: "), error
