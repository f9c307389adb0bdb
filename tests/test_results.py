"""Results: a JSON file a recipe, and a table from nothing but them."""

import json

from experiments import record as results
from gengen.training import run_dir


def test_record_and_table(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROOT", tmp_path)
    run = tmp_path / "run"
    settings = {
        "schema": run_dir.SCHEMA, "model": "ddpm", "data": {"name": "mnist5k:train"}, "seed": 3,
        "steps": 1500, "parameters": 1_000_000, "versions": {}, "config": {},
        "machine": {"platform": "cpu", "device": "Some CPU", "cores": 2, "num_devices": 1},
    }  # fmt: skip
    run_dir.create(run, settings)
    metrics = {"confident": {"value": 0.75, "floor": 0.92}, "ln p(x|y)": {"floor": 0.96}}
    path = results.record("ddpm_mnist5k", run, metrics, 133.21)
    assert path == tmp_path / "results" / "ddpm_mnist5k.json"
    written = json.loads(path.read_text())
    assert written["seconds"] == 133.2 and written["seed"] == 3 and written["commit"] == "unknown"
    table = results.table(path.parent)
    assert "## ddpm_mnist5k" in table and "1,000,000 parameters" in table
    assert "| confident | 0.75 | 0.92 |" in table and r"| ln p(x\|y) |  | 0.96 |" in table


def test_a_picture_belongs_to_the_recipe_with_the_longest_name(tmp_path):
    for name in ("ddpm", "ddpm_samples", "ddpm_large_samples", "demo"):
        (tmp_path / f"{name}.png").touch()
    found = results.pictures(["ddpm", "ddpm_large", "dd"], tmp_path)
    want = {"ddpm": ["ddpm", "ddpm_samples"], "ddpm_large": ["ddpm_large_samples"], "dd": []}
    assert found == want


def test_the_committed_table_is_made_of_the_committed_files():
    table = (results.ROOT / "docs" / "RESULTS.md").read_text()
    assert table == results.table(results.ROOT / "results")
