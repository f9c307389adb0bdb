"""What holds for every model trained in stages: one command, and exact resumes in any stage."""

import chex
import jax
import numpy as np
import pytest

from gengen import loop
from gengen.cli import main
from gengen.data import load, to_batch
from gengen.runs import discover, trained
from gengen.types import data_of
from tests.cases import STAGED

STEPS = 12


def test_every_staged_model_has_a_case():
    assert {m.name for m in discover.models() if m.trained_by == "stages"} == set(STAGED)


def cases():
    """Each in its own group; all but the smallest are slow."""
    for name in STAGED:
        mark = [] if name == "stacked" else [pytest.mark.slow]
        yield pytest.param(name, marks=[pytest.mark.xdist_group(f"staged {name}"), *mark])


@pytest.mark.parametrize("name", list(cases()))
def test_a_cut_in_every_stage_changes_no_bit(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, words = STAGED[name]
    line = ["train", name, "--data", data, "--steps", str(STEPS), "--save-every", "2"]
    line += [w for word in words for w in ("--set", word)]
    assert main([*line, "--out", "whole"]) == 0
    whole = trained.load("whole")
    assert isinstance(whole.variables, dict) and len(whole.variables) > 1
    chex.assert_tree_all_finite(whole.variables)

    # Steps of each session before it is stopped: in each of three stages, or between two.
    cuts = [3, 3, 4]
    for session, cut in enumerate(cuts):
        steps = iter(range(1, 100))
        with monkeypatch.context() as patch:
            patch.setattr(
                loop.distributed,
                "asked_to_stop",
                lambda step, stop: next(steps) == cut,  # noqa: B023
            )
            assert main([*line, "--out", "cut", *(["--resume"] if session else [])]) == 1
    assert main(["train", name, "--out", "cut", "--resume"]) == 0
    cut = trained.load("cut")
    chex.assert_trees_all_equal(cut.variables, whole.variables)
    assert main(["export", "cut", "cut.safetensors"]) == 0
    chex.assert_trees_all_equal(trained.load("cut.safetensors").variables, whole.variables)
    x = data_of(to_batch(load(data).arrays, np.arange(4)))
    if hasattr(whole.module, "reconstruct"):
        got = whole.module.reconstruct(whole.cfg, whole.variables, x)
        assert got.shape == x.shape and np.all(np.isfinite(got))
    if hasattr(whole.module, "sample"):
        got = whole.module.sample(whole.cfg, whole.variables, jax.random.key(0), 3)
        assert got.shape == (3, *x.shape[1:]) and np.all(np.isfinite(got))
