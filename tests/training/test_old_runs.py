"""Runs of earlier schemas: fields had other names; they load, sample and resume bit for bit."""

import json
import shutil

import chex
import jax
import numpy as np
import pytest

import gengen
from gengen.cli import main
from gengen.runs import discover, trained
from gengen.training import run_dir
from tests.processes import VECTOR_DDPM

# Models with renamed fields, and fields that keep them small.
MODELS = {"ddpm": ("ring8", VECTOR_DDPM)}


def rename_back(out, name, schema):
    """Rewrite `config.json` as an earlier gengen would have written it."""
    settings = json.loads((out / "config.json").read_text())
    former = {new: old for old, new in discover.module(name).Config.RENAMED.items() if new}
    config = {former.get(field, field): value for field, value in settings["config"].items()}
    assert config != settings["config"]
    settings |= {"schema": schema, "config": config}
    if schema == 1:
        del settings["engine"]
    run_dir.write_json(out / "config.json", settings)


@pytest.fixture(scope="module", params=MODELS)
def runs(request, tmp_path_factory):
    """A run of 8 steps, and one that was stopped after 4."""
    folder = tmp_path_factory.mktemp(request.param)
    data, fields = MODELS[request.param]
    for out, steps in (("whole", 8), ("cut", 4)):
        sets = [word for field in fields for word in ("--set", field)]
        words = ["train", request.param, "--data", data, *sets, "--steps", steps]
        words += ["--save-every", 4, "--log-every", 2, "--preview-every", 100]
        assert main([*map(str, words), "--out", str(folder / out)]) == 0
    return request.param, folder


@pytest.mark.parametrize("schema", [1, 2])
def test_an_earlier_run_goes_on_bit_for_bit(runs, tmp_path, schema):
    name, folder = runs
    out = tmp_path / "run"
    shutil.copytree(folder / "cut", out)
    rename_back(out, name, schema)
    before = (out / "config.json").read_bytes()
    new, old = gengen.load(folder / "cut"), gengen.load(out)
    assert old.cfg == new.cfg and (out / "config.json").read_bytes() == before
    np.testing.assert_array_equal(old.sample(5, seed=3), new.sample(5, seed=3))
    assert main(["train", name, "--steps", "8", "--out", str(out), "--resume"]) == 0
    whole, resumed = gengen.load(folder / "whole"), gengen.load(out)
    chex.assert_trees_all_equal(jax.device_get(whole.variables), jax.device_get(resumed.variables))
    settings = json.loads((out / "config.json").read_text())
    assert settings["schema"] == run_dir.SCHEMA
    assert (
        settings["config"] == json.loads((folder / "whole" / "config.json").read_text())["config"]
    )
    losses = [
        [{k: row[k] for k in ("step", "loss")} for row in run_dir.read_metrics(r / "metrics.jsonl")]
        for r in (folder / "whole", out)
    ]
    assert losses[0] == losses[1]


def test_an_exported_file_of_an_earlier_run_loads(runs, tmp_path):
    name, folder = runs
    shutil.copytree(folder / "cut", tmp_path / "run")
    rename_back(tmp_path / "run", name, 2)
    file = trained.export(tmp_path / "run", tmp_path / "run.safetensors")
    loaded = gengen.load(file)
    assert loaded.cfg == gengen.load(folder / "cut").cfg
    chex.assert_trees_all_equal(loaded.variables, gengen.load(folder / "cut").variables)


def test_another_configuration_is_refused(runs, tmp_path, capsys):
    name, folder = runs
    shutil.copytree(folder / "cut", tmp_path / "run")
    rename_back(tmp_path / "run", name, 2)
    words = ["train", name, "--steps", "8", "--out", str(tmp_path / "run"), "--resume"]
    assert main([*words, "--set", "batch_size=4"]) == 2
    assert "batch_size was 8, now 4" in capsys.readouterr().err
