"""Notebooks equal their text, and run from top to bottom in smoke mode."""

from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

from tests.processes import COMPILE_QUICKLY

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_notebook_is_its_text(path):
    text = jupytext.read(path.with_suffix(".py"))
    notebook = nbformat.read(path, as_version=4)
    cells = [[(cell.cell_type, cell.source) for cell in n.cells] for n in (text, notebook)]
    assert cells[0] == cells[1], "run: jupytext --sync notebooks/*.py"
    assert all(not cell.get("outputs") for cell in notebook.cells)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_notebook_runs(path, monkeypatch):
    monkeypatch.setenv("GENGEN_SMOKE", "1")
    monkeypatch.setenv("XLA_FLAGS", COMPILE_QUICKLY)
    monkeypatch.setenv("PYTHONPATH", str(path.parents[1]))
    notebook = nbformat.read(path, as_version=4)
    assert not [cell for cell in notebook.cells if "def " in cell.source], "it defines nothing"
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
