"""Finding the models: every module of a family that defines `method`, `fit` or `stages`.

There is no registry. Modules are read, not imported, so that `gengen list` answers at once.
"""

from __future__ import annotations

import ast
import difflib
import importlib
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from gengen.errors import InputError

FAMILIES = (
    "density", "autoencoder", "vae", "gan", "flow", "autoregressive", "diffusion", "representation",
)  # fmt: skip
PACKAGE = Path(__file__).resolve().parents[1]
TRAINABLE = ("method", "fit", "stages")


class Model(NamedTuple):
    """A model that gengen can train.

    Attributes:
        name: of its module.
        family: the package it is in.
        trained_by: which of `method`, `fit` and `stages` it defines.
        samples: whether it defines `sample`.
        title: the first line of its docstring.
    """

    name: str
    family: str
    trained_by: str
    samples: bool
    title: str


def models() -> list[Model]:
    """All models, by family and name."""
    found = []
    for family in FAMILIES:
        for path in sorted((PACKAGE / family).glob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            trained_by = next((name for name in TRAINABLE if name in functions), None)
            if trained_by:
                title = (ast.get_docstring(tree) or path.stem).splitlines()[0].rstrip(".")
                found.append(Model(path.stem, family, trained_by, "sample" in functions, title))
    return found


def module(name: str) -> ModuleType:
    """Import the model `name`.

    Raises:
        InputError: if there is none, with what may have been meant.
    """
    known = {model.name: model for model in models()}
    if name not in known:
        raise InputError(f"there is no model {name!r}{suggestion(name, list(known))}")
    return importlib.import_module(f"gengen.{known[name].family}.{name}")


def suggestion(word: str, known: list[str]) -> str:
    """`: did you mean X?`, or what there is."""
    close = difflib.get_close_matches(word, known, n=1)
    return f": did you mean {close[0]}?" if close else f"; there are {', '.join(sorted(known))}"
