"""Finding models: those of gengen, and a user's own modules and files.

There is no registry. Gengen's models are the modules of a family that define `method`, `fit` or
`stages`. They are read, not imported, so that `gengen list` answers at once. A user's own model is
named by its file or its dotted name, and imported only when the user names it.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from gengen.errors import InputError

FAMILIES = (
    "density", "autoencoder", "vae", "gan", "flow", "autoregressive", "diffusion", "flow_matching",
    "representation",
)  # fmt: skip
PACKAGE = Path(__file__).resolve().parents[1]
TRAINABLE = ("method", "fit", "stages")
_OWN = "gengen_own_"  # prefix of the names of modules that are loaded from a file


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
    """Return all models of gengen, by family and name."""
    found = []
    for family in FAMILIES:
        for path in sorted((PACKAGE / family).glob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = _names(tree)
            trained_by = next((name for name in TRAINABLE if name in names), None)
            if trained_by:
                title = (ast.get_docstring(tree) or path.stem).splitlines()[0].rstrip(".")
                found.append(Model(path.stem, family, trained_by, "sample" in names, title))
    return found


def _names(tree: ast.Module) -> set[str]:
    """Return the functions that a module defines, or re-exports (`import sample as sample`)."""
    found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names if alias.asname == alias.name}
    return found


def module(model: Any) -> ModuleType:
    """Return the module of a model.

    Args:
        model: a name of `gengen list`, in upper or lower case, with "-" or "_"; the path of a .py
            file, with a slash or the suffix; a dotted name, "package.module"; a module; or a
            Config, which stands for the module that defines its class.

    Raises:
        InputError: if there is no such model, with the closest known name, or it defines none of
            `method`, `stages` and `fit`, or no `Config`.
    """
    if isinstance(model, ModuleType):
        return _checked(model, model.__name__)
    if not isinstance(model, str | Path):
        found = sys.modules.get(type(model).__module__)
        if found is None or not hasattr(found, "Config"):
            raise InputError(f"{model!r} is no model: give a name, a file, a module or a Config")
        return _checked(found, found.__name__)
    name = str(model)
    if name.endswith(".py") or "/" in name:
        return _checked(_from_file(Path(name)), name)
    if "." in name:
        return _checked(_from_dotted(name), name)
    known = {model.name: model for model in models()}
    own = name.lower().replace("-", "_")
    if own not in known:
        raise InputError(f"there is no model {name!r}{suggestion(own, list(known))}")
    return importlib.import_module(f"gengen.{known[own].family}.{own}")


def of_run(name: str) -> ModuleType:
    """Return the module of a run's model, if it is one of gengen's.

    Raises:
        InputError: for a user's own model: code is never imported because a file names it.
    """
    if name.endswith(".py") or "/" in name or "." in name:
        raise InputError(
            f"the run is of a model of your own, {name}: name it again, as in --model {name} or "
            f"gengen.load(..., model={name!r})"
        )
    return module(name)


def is_builtin(found: ModuleType) -> bool:
    """Return whether a module is one of gengen's models."""
    parts = found.__name__.split(".")
    return len(parts) == 3 and parts[0] == "gengen" and parts[1] in FAMILIES


def name_of(found: ModuleType) -> str:
    """Return the name by which `module` finds a module: what a run stores."""
    if is_builtin(found):
        return found.__name__.rpartition(".")[2]
    if found.__name__.startswith(_OWN) or found.__name__ == "__main__":
        path = Path(found.__file__ or found.__name__)
        return f"./{path.name}" if path.parent == Path.cwd() else str(path)
    return found.__name__


def _from_file(path: Path) -> ModuleType:
    path = path.absolute()
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    name = _OWN + path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python file")
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found  # dataclasses look their module up
    spec.loader.exec_module(found)
    return found


def _from_dotted(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(f"there is no module {name!r} ({error})") from None


def _checked(found: ModuleType, name: str) -> ModuleType:
    if not hasattr(found, "Config") or not any(hasattr(found, f) for f in TRAINABLE):
        raise InputError(
            f"{name} is no model: it must define Config and one of {', '.join(TRAINABLE)} "
            "(see gengen.contract)"
        )
    return found


def suggestion(word: str, known: list[str]) -> str:
    """Return ": did you mean X?", or a list of what there is."""
    close = difflib.get_close_matches(word, known, n=1)
    return f": did you mean {close[0]}?" if close else f"; there are {', '.join(sorted(known))}"
