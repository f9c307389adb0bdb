"""The README's Python runs, and what it says exists does."""

import re
from pathlib import Path

from gengen.data import names
from gengen.runs import discover

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_python_snippets_run():
    snippets = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(snippets) == 2
    scope: dict = {}
    for snippet in snippets:
        exec(snippet, scope)
    assert scope["images"].shape == (16, 8, 8, 1) and scope["bound"].shape == (64,)


def test_every_model_and_data_set_is_in_a_table():
    for word in [model.name for model in discover.models()] + names():
        assert f"`{word}`" in README, word


def test_commands_are_of_models_and_options_that_exist():
    for model in re.findall(r"gengen train (\w+)", README):
        discover.module(model)
    for target in set(re.findall(r"make (\w+)", README)) - {"to"}:
        makefile = (Path(__file__).parents[1] / "Makefile").read_text()
        assert re.search(rf"^{target}:", makefile, re.M), target
