"""The demo's promise: digits that a judge reads, of every class, and no copies."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_demo_keeps_its_promise(tmp_path):
    script = ROOT / "experiments" / "ddpm_mnist5k.py"
    done = subprocess.run(
        [sys.executable, script, "--out", "run"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "samples" in done.stdout and "report.html" in done.stdout
    rows = json.loads((tmp_path / "run" / "evaluation.json").read_text())["rows"]
    measured = {row["name"]: row for row in rows}
    assert measured["share the judge gives p ≥ 0.8"]["value"] >= 0.60
    assert 0.85 <= measured["share the judge gives p ≥ 0.8"]["floor"] <= 0.93
    assert measured["judge's accuracy"]["floor"] >= 0.94
    assert measured["smallest share of a class"]["value"] >= 0.03
    distance = measured["mean distance to the nearest training digit"]
    assert distance["value"] >= distance["floor"]


@pytest.mark.slow
def test_a_shorter_run_still_learns(tmp_path):
    """Learning test: 300 steps, a fifth of the demo's, must reach 30 % and a loss below 0.36."""
    script = ROOT / "experiments" / "ddpm_mnist5k.py"
    words = [sys.executable, script, "--out", "run", "--steps", "300", "--seed", "1"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "run" / "evaluation.json").read_text())["rows"]
    assert rows[0]["value"] >= 0.30
    last = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["loss"] < 0.36  # 0.31 was seen; a mean of the data scores 1
