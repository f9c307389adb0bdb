"""Commands of all pages parse; the tutorials run as printed, the README in fewer steps."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tyro

from gengen.cli import Command, main
from tests.processes import ROOT, environment

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
TUTORIALS = [page for page in PAGES if page.parent.name == "tutorials"]
BLOCK = re.compile(r"^```(\w+)(?: title=\"(.+?)\")?\n(.*?)^```", re.M | re.S)
COMMAND = re.compile(r"^(?:\$ |[A-Z_]+=\S+ )?gengen (.+)$", re.M)

# Runs the blocks of a page in order, in one scope and one folder. A command that fails ends it.
DRIVER = """
import json, subprocess, sys
scope = {"__name__": "tutorial"}
for language, title, text in json.load(sys.stdin):
    print("#", language, title, text.splitlines()[0], file=sys.stderr)
    if title:
        open(title, "w").write(text)
    elif language == "python":
        exec(text, scope)
    elif language == "console":
        subprocess.run(["bash", "-euc", text], check=True)
"""


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """Language, file name or "", and text of each fenced block."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def commands(page: Path) -> list[list[str]]:
    """The arguments of each command `gengen` in the console blocks of a page."""
    texts = [text for language, _, text in blocks(page) if language in ("console", "text")]
    found = COMMAND.findall("".join(texts).replace("\\\n", " "))
    split = [shlex.split(words, comments=True) for words in found if "--tyro" not in words]
    return [[{"N": "2", "I": "0"}.get(word, word) for word in words] for words in split]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_parse(page):
    for words in commands(page):
        tyro.cli(Command, prog="gengen", args=words)  # type: ignore[arg-type]  ends for a wrong one


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_snippets_compile(page):
    for language, title, text in blocks(page):
        assert language in ("console", "python", "text")
        if language == "python":
            compile(text, title or str(page), "exec")


def test_a_model_is_added_as_the_tutorial_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "tutorials" / "adding-a-model.md"
    for language, title, text in blocks(page):
        if title:
            Path(title).write_text(text, encoding="utf-8")
        elif language == "console":
            assert main(commands(page)[0]) == 0  # the others are for the slow test
        else:
            exec(text, {})


def run_as_users(printed: list[tuple[str, str, str]], folder: Path) -> None:
    """Run blocks in a folder of their own, with `gengen` on the PATH, on one device."""
    shim = folder / "bin" / "gengen"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m gengen "$@"\n')
    shim.chmod(0o755)
    work = folder / "work"
    work.mkdir()
    path = os.pathsep.join([str(shim.parent), os.environ["PATH"]])
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], cwd=work, env=environment(PATH=path), text=True,
        input=json.dumps(printed), capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_the_tutorial_runs_as_printed(page, tmp_path):
    run_as_users(blocks(page), tmp_path)


@pytest.mark.slow
def test_the_commands_of_the_readme_run(tmp_path):
    (text,) = [text for _, _, text in blocks(README) if text.startswith("gengen list")]
    shorter = text.replace("--steps 1500", "--steps 4").replace("--steps 2000", "--steps 6")
    shorter = shorter.replace("--set n_critic", "--steps 2 --set n_critic")
    fewer = shorter.replace("evaluate runs/ddpm", "evaluate runs/ddpm --num 100 --fast")
    run_as_users([("console", "", fewer)], tmp_path)
