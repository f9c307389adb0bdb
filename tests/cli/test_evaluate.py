"""`gengen evaluate`: what is scored against what, with which floor."""

import json
import re

import numpy as np
import pytest
from PIL import Image

import gengen
from gengen.cli import main
from gengen.data import load, to_uint8
from gengen.metrics import extractors, similarity, statistics
from gengen.runs import evaluation, sides
from tests.processes import settings

VAE = ("channels=4,8", "hidden=8", "latent_shape=3", "batch_size=16")
GAN = ("latent_dim=4", "channels=4,8", "hidden=8", "batch_size=16")
RUNS = {
    "gmm": ("grid25", ("num_components=2",)),
    "vae": ("digits", VAE),
    "cgan": ("digits", GAN),
    "autoencoder": ("digits", ("channels=4,8", "batch_size=16")),
}


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory, monkeypatch):
    """Features are kept for all tests of this file; there are no weights."""
    folder = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("GENGEN_WEIGHTS_DIR", str(folder / "weights"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setattr(evaluation, "MOST_C2ST", 100)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The directory of a run of few steps, trained when it is first asked for."""
    folder = tmp_path_factory.mktemp("runs")

    def run(model):
        data, words = RUNS[model]
        out = folder / model
        if not out.exists():
            train = ["train", model, "--data", data, "--steps", "3", "--out", str(out)]
            assert main([*train, *settings(words)]) == 0
        return out

    return run


def evaluate(capsys, *words):
    capsys.readouterr()
    assert main(["evaluate", *map(str, words), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    return found, {score["metric"]: score for score in found["scores"]}


def rows(run):
    found = json.loads((run / "evaluation.json").read_text())
    return found, {row["name"]: row for row in found["rows"]}


@pytest.mark.slow
def test_the_defaults_suit_points(trained, capsys):
    """Two Gaussians instead of 25: modes are missing, and every score is complete."""
    run = trained("gmm")
    about, scores = evaluate(capsys, run, "--num", 300)
    assert about["real"].startswith("grid25") and about["extractor"] == "identity"
    assert set(scores) == {
        "sw2[identity]", "modes found", "high-quality share", "c2st[identity]", "nats per example",
    }  # fmt: skip
    share = scores["high-quality share"]
    assert share["value"] < share["floor"] - 3 * share["floor_standard_error"]
    assert share["floor"] == pytest.approx(0.9889, abs=0.03)
    assert scores["c2st[identity]"]["value"] > 0.6 > scores["c2st[identity]"]["floor"]
    for name, score in scores.items():
        assert score["standard_error"] is not None and score["better"], name
        assert (score["floor"] is None) == (name == "nats per example"), name
        assert (score["n_fake"], score["n_real"])[name == "nats per example"], name
    again, same = evaluate(capsys, run, "--num", 300, "--metrics", "modes")
    assert same["modes found"] == scores["modes found"]  # a function of seed and number
    assert again["checkpoint"] == about["checkpoint"]


def test_scores_are_kept_in_the_run_and_its_report(trained, capsys):
    run = trained("gmm")
    evaluate(capsys, run, "--num", 200, "--metrics", "fid,modes")
    assert "high-quality share" in (run / "report.html").read_text()
    evaluate(capsys, run, "--num", 100, "--metrics", "kid,modes")
    about, kept = rows(run)
    assert {"fid[identity]", "kid[identity]", "modes found"} <= set(kept)
    assert (kept["fid[identity]"]["n_fake"], kept["modes found"]["n_fake"]) == (200, 100)
    assert set(kept["fid[identity]"]) == {
        "name", "value", "error", "n_real", "n_fake", "floor", "floor_error", "better", "note",
    }  # fmt: skip
    assert about["num"] == 100 and about["floor"] == "grid25:test"
    evaluate(capsys, run, "--num", 100, "--metrics", "kid", "--seed", 1)  # other samples
    assert set(rows(run)[1]) == {"kid[identity]"}
    (run / "evaluation.json").write_text("[]")
    evaluate(capsys, run, "--num", 100, "--metrics", "sw")
    assert set(rows(run)[1]) == {"sw2[identity]"}


def test_an_exported_file_is_scored_and_nothing_is_written(trained, capsys, tmp_path):
    run, file = trained("gmm"), tmp_path / "gmm.safetensors"
    assert main(["export", str(run), str(file)]) == 0
    _, of_run = evaluate(capsys, run, "--num", 100, "--metrics", "sw")
    _, of_file = evaluate(capsys, file, "--num", 100, "--metrics", "sw")
    assert of_run == of_file and [path.name for path in tmp_path.iterdir()] == [file.name]


def test_the_table_names_direction_error_and_floor(trained, capsys):
    assert main(["evaluate", str(trained("gmm")), "--num", "100", "--metrics", "modes,sw"]) == 0
    printed = capsys.readouterr()
    assert re.search(r"modes found +↑ +\d+ +± \S+ +25 +± ", printed.out)
    assert re.search(r"sw2\[identity\] +↓ +\S+ +± \S+ +\S+ +± \S+ +[\d,]+ +100", printed.out)
    assert "features: identity" in printed.err and "grid25:test" in printed.err
    assert "a perfect model" in printed.err
    words = ["--num", "100", "--metrics", "sw", "--no-floor"]
    assert main(["evaluate", str(trained("gmm")), *words]) == 0
    assert "no floor" in capsys.readouterr().err


def test_the_defaults_suit_images_without_any_weights(trained, capsys):
    """Digits of 8×8 have no extractor of their own; a VAE has a likelihood."""
    about, scores = evaluate(capsys, trained("vae"))
    assert about["extractor"] == "random-v1" and "weights" in about["extractor_reason"]
    assert {"fid[random-v1]", "kid[random-v1]", "coverage[random-v1]"} < set(scores)
    coverage = scores["coverage[random-v1]"]
    assert coverage["floor"] > 0.85 > coverage["value"]
    assert coverage["n_real"] == coverage["n_fake"] >= 100
    nats = scores["nats per example"]
    assert nats["better"] == "lower" and "binarised" in nats["note"]
    assert 20 < nats["value"] < 64  # 64 ln 2 = 44 for a model that knows nothing


def test_nats_need_no_samples_and_no_features(trained, capsys, monkeypatch):
    monkeypatch.setattr("gengen.runs.sizes.draw", None)
    monkeypatch.setattr("gengen.metrics.extractors.load", None)
    about, scores = evaluate(capsys, trained("gmm"), "--metrics", "nats")
    run = gengen.load(trained("gmm"))
    want = -run.log_prob(load("grid25:test").arrays["x"])
    assert scores["nats per example"]["value"] == pytest.approx(want.mean(), rel=1e-5)
    assert scores["nats per example"]["n_real"] == len(want) and about["extractor"] is None


def test_classes_asked_for_are_read_by_a_judge(trained, capsys):
    """Of an untrained model a tenth are right; of real digits nearly all."""
    _, scores = evaluate(capsys, trained("cgan"), "--num", 200, "--metrics", "class")
    found = scores["class[svm]"]
    assert found["value"] < 0.4 and found["floor"] > 0.9 and found["standard_error"] > 0


def test_reconstructions_are_scored_against_the_truth(trained, capsys):
    about, scores = evaluate(capsys, trained("autoencoder"))
    assert {"psnr", "fid[random-v1]"} < set(scores) and "ms_ssim" not in scores
    run = gengen.load(trained("autoencoder"))
    truth = load("digits:test").arrays["image"]
    made = to_uint8(run.reconstruct(truth))
    assert scores["psnr"]["value"] == pytest.approx(similarity.psnr(made, truth, 255), abs=0.02)
    assert scores["psnr"]["n_real"] == len(truth) and scores["psnr"]["standard_error"] > 0


def test_a_folder_without_a_held_out_part_has_a_floor_of_halves(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, noise in (("real", 10), ("fake", 60)):
        (tmp_path / name).mkdir()
        for i in range(40):
            image = 128 + 60 * np.sin(np.arange(12) / rng.uniform(1, 3))[:, None, None]
            image = image + noise * rng.normal(size=(12, 12, 3))
            file = tmp_path / name / f"{i}.png"
            Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(file)
    words = ["--data", tmp_path / "real", "--size", 12]  # without the prefix folder:
    about, scores = evaluate(capsys, tmp_path / "fake", *words)
    assert about["floor"].startswith("halves of") and about["extractor"] == "random-v1"
    assert scores["kid[random-v1]"]["value"] > 3 * abs(scores["kid[random-v1]"]["floor"])
    for score in scores.values():
        assert score["floor"] is not None and score["standard_error"] is not None


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
    whole = sides.examples("mnist5k", load("mnist5k"), lambda: extractor)
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
        (["x.npz", "--data", "mnist5k", "--extractor", "inception"], "weights fetch inception"),
        (["x.npz", "--data", "mnist5k", "--metrics", "nats"], "needs the model"),
        (["x.npz", "--data", "mnist5k", "--metrics", "class"], "not asked for classes"),
        (["x.npz", "--data", "mnist5k", "--metrics", "modes"], "modes"),
        (["nothing.npz", "--data", "mnist5k"], "nothing.npz"),
        (["small.npz", "--data", "mnist5k", "--metrics", "is"], "8"),
    ],
)
def test_bad_input_is_one_line(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", image=np.zeros((9, 28, 28, 1), np.uint8))
    np.savez("small.npz", image=np.zeros((9, 8, 8, 1), np.uint8))
    assert main(["evaluate", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error and error.startswith("gengen: "), error
