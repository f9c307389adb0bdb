"""The README's Python runs, and what it says exists does."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gengen.data import names
from gengen.runs import discover
from tests.processes import as_users

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.S)
SHORTER = [("steps=1500", 'config={"T": 5, "channels": (8,), "num_blocks": (1,)}, steps=3')]


def run(snippets) -> dict:
    scope: dict = {"__name__": "readme"}
    for snippet in snippets:
        exec(snippet, scope)
    return scope


def test_python_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(SNIPPETS) == 3
    first = SNIPPETS[0]
    for old, new in SHORTER:
        assert old in first
        first = first.replace(old, new)
    scope = run([first])
    assert scope["images"].shape == (16, 28, 28, 1) and scope["nats"].shape == (8,)
    assert {score.metric for score in scope["scores"]} == {"fid[mnist-v1]", "kid[mnist-v1]"}
    assert run(SNIPPETS[1:])["run"].sample(3).shape == (3, 5)


@pytest.mark.slow
def test_the_first_snippet_runs_as_printed(tmp_path):
    """As a user's script: the programs of the tests are quick to compile, and slow."""
    script = SNIPPETS[0] + "\nprint(scores[0].metric, scores[0].value)\n"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=as_users(), text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    metric, value = done.stdout.split()
    assert metric == "fid[mnist-v1]" and float(value) < 1000  # noise: 3,000


def test_every_model_and_data_set_is_in_a_table():
    for word in [model.name for model in discover.models()] + names():
        assert f"`{word}`" in README, word


def test_commands_are_of_models_and_options_that_exist():
    for model in re.findall(r"gengen train (\w+)", README):
        discover.module(model)
    for target in set(re.findall(r"make (\w+)", README)) - {"to"}:
        makefile = (Path(__file__).parents[1] / "Makefile").read_text()
        assert re.search(rf"^{target}:", makefile, re.M), target
