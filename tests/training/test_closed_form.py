"""What holds for every model that is fitted at once: through the command, and from its run."""

import json
from pathlib import Path
from types import ModuleType

import chex
import jax
import numpy as np
import pytest

from gengen.cli import main
from gengen.data import load, to_batch
from gengen.data.stream import Stream
from gengen.runs import discover, trained
from gengen.training.closed_form import fit_run
from gengen.types import data_of
from tests.cases import FITS


def test_every_fitted_model_has_a_case():
    assert {m.name for m in discover.models() if m.trained_by == "fit"} == set(FITS)


@pytest.mark.parametrize("name", FITS)
def test_fits_and_comes_back(name, tmp_path, capsys, monkeypatch):
    """The same parameters twice, finite; exported and sampled as any run."""
    monkeypatch.chdir(tmp_path)
    data, words = FITS[name]
    line = ["train", name, "--data", data, *(w for word in words for w in ("--set", word))]
    for out in ("a", "b"):
        assert main([*line, "--out", out]) == 0
    a, b = (trained.load(out) for out in ("a", "b"))
    chex.assert_trees_all_equal(a.variables, b.variables)
    chex.assert_tree_all_finite(a.variables)
    assert (tmp_path / "a" / "report.html").exists()
    settings = json.loads(Path("a/config.json").read_text())
    assert settings["model"] == name
    params = jax.tree.leaves(a.variables["params"])
    assert settings["parameters"] == sum(np.size(p) for p in params)
    x = data_of(to_batch(load(data).arrays, np.arange(4)))
    for function in ("log_prob", "encode"):
        if hasattr(a.module, function):
            got = getattr(a.module, function)(a.cfg, a.variables, x)
            assert len(got) == 4 and np.all(np.isfinite(got)), function
    if hasattr(a.module, "sample"):
        got = a.module.sample(a.cfg, a.variables, jax.random.key(0), 5)
        assert got.shape == (5, *x.shape[1:]) and np.all(np.isfinite(got))
        assert main(["sample", "a", "--num", "5", "--out", "x.npz"]) == 0
    assert main(["export", "a", "a.safetensors"]) == 0
    chex.assert_trees_all_equal(trained.load("a.safetensors").variables, a.variables)
    capsys.readouterr()
    assert main([*line, "--out", "a", "--resume"]) == 2
    assert "nothing to resume" in capsys.readouterr().err
    assert main([*line, "--out", "a"]) == 2  # and nothing is overwritten


def test_streams_are_refused(tmp_path):
    from gengen.density import ppca

    stream = Stream("s", lambda rows: {"x": np.zeros((len(rows), 2), np.float32)}, 9, (2,), "f")
    with pytest.raises(ValueError, match="streamed"):
        fit_run(ppca, ppca.Config(), stream, out=tmp_path / "run", settings={}, seed=0)
    assert not (tmp_path / "run").exists()


def test_a_fit_that_refuses_its_data_leaves_nothing(tmp_path):
    def fit(cfg, x, key):
        raise ValueError(f"{x.shape} is too few")

    module = ModuleType("refusing")
    module.fit = fit  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="too few"):
        fit_run(module, None, load("moons"), out=tmp_path / "runs" / "a", settings={}, seed=0)
    assert not (tmp_path / "runs").exists()


def test_a_fit_draws_one_picture(tmp_path):
    module = ModuleType("mean")
    module.fit = lambda cfg, x, key: {"params": {"mean": x.mean(0)}}  # pyright: ignore
    preview = lambda variables, key: np.tile(variables["params"]["mean"], (4, 1))  # noqa: E731
    out = tmp_path / "run"
    variables = fit_run(module, None, load("moons"), out=out, settings={}, seed=0, preview=preview)
    assert variables["params"]["mean"].shape == (2,)
    assert [p.name for p in (out / "samples").iterdir()] == ["step_00000001.png"]
