"""Options of `gengen train`, one test each, through the command line."""

import json
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

import gengen
from gengen.cli import main
from gengen.data import load
from gengen.diffusion import ddpm
from gengen.flow import realnvp
from gengen.runs import validating
from gengen.runs.resolve import Asked, resolve
from gengen.training.run_dir import read_metrics
from gengen.vae import vae

SMALL_VAE = ["--set", "hidden=8", "--set", "latent_shape=2", "--set", "channels="]
SMALL = {"hidden": (8,), "latent_shape": (2,), "channels": ()}
VAE = ["train", "vae", "--data", "digits", *SMALL_VAE]


@pytest.fixture(autouse=True)
def in_a_new_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def settings_of(run: str) -> dict:
    return json.loads(Path(run, "config.json").read_text())


# --- validation ----------------------------------------------------------------------------------


def test_validation_is_bounded_by_default():
    assert validating.default_every(realnvp.Config(), 20) == 20
    for steps in (60, 999, 1000, 20_000):
        every = validating.default_every(realnvp.Config(), steps)
        assert every >= 50 and steps // every <= 20
    assert validating.default_num(realnvp.Config()) == 1000
    assert validating.default_num(ddpm.Config(T=250)) == 16  # T evaluations for each example


def test_validate_num_takes_a_fixed_subset(capsys):
    words = [*VAE, "--hold-out", "0.1", "--validate-every", "2", "--validate-num", "30"]
    assert main([*words, "--steps", "6", "--out", "whole"]) == 0
    assert "-log_prob of 30 of 144 held-out examples, every 2 steps" in capsys.readouterr().err
    assert settings_of("whole")["validation"]["num"] == 30
    assert main([*words, "--steps", "4", "--out", "parts"]) == 0
    resume = ["train", "vae", "--out", "parts", "--resume", "--steps", "6"]
    assert main([*resume, "--validate-num", "40"]) == 2
    assert "validate_num was 30, now 40" in capsys.readouterr().err
    assert main(resume) == 0
    whole, parts = (read_metrics(Path(run, "validation.jsonl")) for run in ("whole", "parts"))
    assert [row["step"] for row in whole] == [2, 4, 6] and whole == parts

    rest = load("digits")
    subset = validating._subset(rest, 30)
    assert len(subset) == 30 and subset.fingerprint == validating._subset(rest, 30).fingerprint
    assert len({image.tobytes() for image in np.asarray(subset.arrays["image"])}) == 30


def test_runs_that_took_all_held_out_examples_go_on_so():
    before = {"hold_out": 0.1, "every": 2, "patience": None}
    cfg = realnvp.Config()
    assert validating.settings(cfg, before, None, 100, resume=True) == before
    # A new run with the settings of that one is bounded, and may take another number.
    assert validating.settings(cfg, before, None, 100) == before | {"num": 1000}
    assert validating.settings(cfg, before | {"num": 30}, None, 100, num=40)["num"] == 40


# --- length --------------------------------------------------------------------------------------


def test_epochs(capsys):
    data = load("digits")
    words = [*VAE, "--set", "batch_size=500"]
    assert main([*words, "--epochs", "1.5", "--out", "run"]) == 0
    assert settings_of("run")["steps"] == -(-3 * len(data) // 1000)
    half = Asked(data="digits", config={"batch_size": 500}, epochs=1, hold_out=0.5)
    assert resolve(vae, half, {}).steps == -(-(len(data) - round(len(data) / 2)) // 500)
    capsys.readouterr()
    assert main([*words, "--epochs", "1", "--steps", "3", "--out", "both"]) == 2
    assert "--steps and --epochs: give one" in capsys.readouterr().err
    assert main([*words, "--epochs", "0", "--out", "none"]) == 2
    assert "must be above 0" in capsys.readouterr().err


# --- Configs from files --------------------------------------------------------------------------


def test_config_of_another_run_round_trips():
    words = ["--data", "digits", "--steps", "3", "--seed", "5", *SMALL_VAE, "--set", "beta=0.5"]
    assert main(["train", "vae", *words, "--hold-out", "0.1", "--out", "a"]) == 0
    assert main(["train", "vae", "--config", "a/config.json", "--out", "b"]) == 0
    a, b = settings_of("a"), settings_of("b")
    assert a.pop("command").endswith("--out a") and b.pop("command").endswith("--out b")
    assert a == b
    chex.assert_trees_all_equal(gengen.load("a").variables, gengen.load("b").variables)
    # Steps and other data may be given; a field that is set goes before the file.
    c = resolve(vae, Asked(file="a", config=("beta=2",), data="moons", steps=2), {})
    assert (c.cfg.beta, c.cfg.shape, c.cfg.hidden, c.steps, c.seed) == (2.0, (2,), (8,), 2, 5)
    assert c.data.name.startswith("moons")


def test_config_of_fields(capsys):
    fields = {"hidden": [8, 4], "latent_shape": [2], "channels": [], "batch_size": 8}
    Path("a.json").write_text(json.dumps(fields))
    Path("a.yaml").write_text("hidden: [8, 4]\nlatent_shape: [2]\nchannels: []\nbatch_size: 8\n"
                              "learning_rate: 1e-2\n")  # fmt: skip
    words = ["train", "vae", "--data", "digits", "--steps", "1"]
    assert main([*words, "--config", "a.json", "--out", "a"]) == 0
    assert main([*words, "--config", "a.yaml", "--out", "b"]) == 0
    a, b = settings_of("a")["config"], settings_of("b")["config"]
    assert {name: a[name] for name in fields} == fields
    assert b == a | {"learning_rate": 0.01}  # which YAML 1.1 takes for a word


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.json", '{"hiden": [8]}', "did you mean hidden?"),
        ("a.json", '{"beta": "much"}', "cannot be read as float"),
        ("a.json", "[1]", "must hold fields of a Config"),
        ("a.json", "{", "is not JSON"),
        ("a.yaml", "a: [", "is not YAML"),
        ("a.json", '{"model": "ddpm", "config": {}}', "is of ddpm, not of vae"),
        ("a.toml", "", "must end in .json"),
        (".", None, "config.json cannot be read"),
    ],
)
def test_bad_config_files_are_one_line(name, text, message, capsys):
    if text is not None:
        Path(name).write_text(text)
    assert main(["train", "vae", "--data", "digits", "--config", name, "--out", "run"]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error and not Path("run").exists()


# --- warm start ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits_vae(tmp_path_factory):
    """A small VAE of the digits, trained for three steps."""
    out = tmp_path_factory.mktemp("vae") / "run"
    assert main([*VAE, "--steps", "3", "--out", str(out)]) == 0
    return out


def test_init_starts_from_the_weights_of_a_run(digits_vae, capsys):
    first = gengen.load(digits_vae)
    words = ["train", "vae", "--data", "digits", "--init", str(digits_vae)]
    # With a learning rate that rounds to nothing, parameters stay as they were, and their EMA up to
    # one rounding a step.
    assert main([*words, "--set", "learning_rate=1e-30", "--steps", "2", "--out", "still"]) == 0
    assert f"starting from the weights of {digits_vae}, trained for 3" in capsys.readouterr().err
    still = gengen.load("still")
    chex.assert_trees_all_close(still.variables, first.variables, rtol=1e-6)
    assert still.cfg.hidden == (8,) and still.settings["init"] == str(digits_vae)

    main(["export", str(digits_vae), "vae.safetensors"])
    words = ["train", "vae", "--data", "digits", "--init", "vae.safetensors"]
    assert main([*words, "--steps", "4", "--out", "whole"]) == 0
    assert main([*words, "--steps", "2", "--out", "parts"]) == 0
    Path("vae.safetensors").unlink()  # not needed again
    assert main(["train", "vae", "--out", "parts", "--resume", "--steps", "4"]) == 0
    whole, parts = gengen.load("whole"), gengen.load("parts")
    chex.assert_trees_all_equal(whole.variables, parts.variables)
    assert parts.settings["init"] == "vae.safetensors"


@pytest.mark.parametrize(
    "words, message",
    [
        (["vae", "--set", "hidden=9"], "decoder/MLP_0/Dense_0/bias is [8] in"),
        (["vae", "--data", "moons"], "in this Config: use data and fields of the same shapes"),
        (["vae", "--set", "channels=4"], "is missing in"),
        (["vae", "--preset", "quick"], "leave --preset out"),
        (["cvae"], "is of vae, not of cvae"),
        (["stacked"], "stacked is trained in stages"),
        (["gmm"], "gmm is trained at once"),
    ],
)
def test_a_warm_start_that_does_not_fit_is_one_line(words, message, digits_vae, capsys):
    data = [] if "--data" in words else ["--data", "digits"]
    assert main(["train", *words, *data, "--init", str(digits_vae), "--out", "run"]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error and not Path("run").exists()


# --- dry runs ------------------------------------------------------------------------------------


def test_dry_run_prints_what_a_run_takes_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main([*VAE, "--steps", "7", "--set", "beta=0.25", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "vae on digits:train: 1,437 examples of 8×8×1" in text and "beta = 0.25" in text
    assert "7 steps: about" in text and "(XLA's estimate)" in text
    assert not list(tmp_path.iterdir())

    run = gengen.train("vae", "digits", config=SMALL, steps=7, dry_run=True)
    (found,) = run.settings["estimates"]
    sizes = [np.size(leaf) for leaf in jax.tree.leaves(run.variables["params"])]
    assert found.parameters == sum(sizes) and found.parameter_bytes == 4 * sum(sizes)
    # Adam's two moments and the EMA, its counter, and the step.
    assert found.state_bytes == 3 * found.parameter_bytes + 8
    assert found.data_bytes == 1437 * (64 + 4) and found.temporary_bytes > 0
    assert found.step_seconds > 0 and found.steps == 7 and not list(tmp_path.iterdir())


def test_dry_run_of_stages(capsys):
    words = ["--data", "digits", "--steps", "9", "--set", "hidden=8,4", "--dry-run"]
    assert main(["train", "stacked", *words]) == 0
    text = capsys.readouterr().out
    assert all(f"stage {name}" in text for name in ("layer1", "layer2", "finetune"))
    assert "all stages  about" in text


def test_dry_runs_that_cannot_be(capsys):
    assert main([*VAE, "--dry-run", "--resume", "--out", "none"]) == 2
    assert "leave --resume out" in capsys.readouterr().err
    assert main(["train", "gmm", "--data", "moons", "--dry-run"]) == 2
    assert "gmm is fitted at once" in capsys.readouterr().err
