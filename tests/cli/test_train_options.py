"""Options of `gengen train`, one test each, through the command line."""

import json
from pathlib import Path

import numpy as np
import pytest

from gengen.cli import main
from gengen.data import load
from gengen.diffusion import ddpm
from gengen.flow import realnvp
from gengen.runs import validating
from gengen.training.run_dir import read_metrics

FLOW = ["train", "realnvp", "--data", "moons", "--set", "num_couplings=2", "--set", "hidden=8"]


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
    words = [*FLOW, "--hold-out", "0.1", "--validate-every", "2", "--validate-num", "30"]
    assert main([*words, "--steps", "6", "--out", "whole"]) == 0
    assert "-log_prob of 30 of 2000 held-out examples, every 2 steps" in capsys.readouterr().err
    assert settings_of("whole")["validation"]["num"] == 30
    assert main([*words, "--steps", "4", "--out", "parts"]) == 0
    resume = ["train", "realnvp", "--out", "parts", "--resume", "--steps", "6"]
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
    assert validating.settings(realnvp.Config(), before, None, 100) == before
