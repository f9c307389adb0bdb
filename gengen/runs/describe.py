"""Description of a model from its module: paper, fields of the Config, what it can do."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import re
import textwrap
import tokenize
from types import ModuleType
from typing import Any, NamedTuple

from gengen.contract import unconditional
from gengen.optim import ScheduledConfig
from gengen.runs import discover

CAN = ("sample", "log_prob", "encode", "decode", "reconstruct", "translate")
_YEAR = re.compile(r"\b(?:19|20)\d\d\b")
# To the end of a sentence; what is in parentheses, and "et al.", does not end one.
_SENTENCE = re.compile(r"(?:\bal\.|[^().]|\([^()]*\)|\.(?=\S))*\.?")


class Field(NamedTuple):
    """A field of a Config: name, type, default value, and its comment in the source."""

    name: str
    type: str
    default: Any
    comment: str


class Description(NamedTuple):
    """Description of a model, which `gengen list MODEL` prints.

    Attributes:
        name: of the model.
        family: of the model.
        title: first line of the module's docstring.
        reference: the papers, from the docstring; "" if it names none.
        trained_by: "method", "fit" or "stages".
        can: those of `CAN` that the module defines.
        log_prob: "exact", "lower bound" or "importance weighted"; "" without a density.
        is_conditioned: whether it can be conditioned on a class or an image.
        fields: of the Config.
    """

    name: str
    family: str
    title: str
    reference: str
    trained_by: str
    can: tuple[str, ...]
    log_prob: str
    is_conditioned: bool
    fields: tuple[Field, ...]


def describe(module: ModuleType) -> Description:
    """Return the description of a model."""
    doc = inspect.getdoc(module) or ""
    return Description(
        name=discover.name_of(module),
        family=module.__name__.split(".")[-2] if discover.is_builtin(module) else "own",
        title=doc.partition("\n")[0].rstrip("."),
        reference=reference(doc),
        trained_by=next(name for name in discover.TRAINABLE if hasattr(module, name)),
        can=tuple(name for name in CAN if hasattr(module, name)),
        log_prob=getattr(module, "LOG_PROB", "") if hasattr(module, "log_prob") else "",
        is_conditioned=getattr(module, "condition_of", unconditional) is not unconditional,
        fields=tuple(fields(module.Config)),
    )


def reference(doc: str) -> str:
    """Return the sentence of a docstring that names the papers: the first one with a year.

    If only a table names years, return all of the table.
    """
    found = [part for part in doc.split("\n\n") if _YEAR.search(part)]
    prose = next((" ".join(part.split()) for part in found if not part.startswith(" ")), "")
    year = _YEAR.search(prose)
    if year is None:
        lines = found[0].splitlines() if found else []
        return "; ".join(" ".join(line.split()).rstrip(";") for line in lines)
    rest = _SENTENCE.match(prose, year.end())
    return prose[: rest.end() if rest else None]


def fields(config_type: type) -> list[Field]:
    """Return the fields of a Config class, with the comments of the source.

    They are in their order, but for those of the learning rate's schedule, which follow it.
    """
    comments: dict[str, str] = {}
    for base in reversed(config_type.__mro__):
        if dataclasses.is_dataclass(base):
            comments |= {name: text for name, text in _comments(base).items() if text}
    found = [
        Field(field.name, str(field.type), _default(field), comments.get(field.name, ""))
        for field in dataclasses.fields(config_type)
    ]
    names = [field.name for field in found]
    if not issubclass(config_type, ScheduledConfig) or "learning_rate" not in names:
        return found
    shared = {field.name for field in dataclasses.fields(ScheduledConfig)}
    place = names.index("learning_rate") + 1
    own = [field for field in found[:place] if field.name not in shared]
    schedule = [field for field in found if field.name in shared]
    return [*own, *schedule, *(field for field in found[place:] if field.name not in shared)]


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _comments(config_type: type) -> dict[str, str]:
    """Return the comment of each field: beside it, or else on the lines above."""
    try:
        source = textwrap.dedent(inspect.getsource(config_type))
    except (OSError, TypeError):  # defined where there is no file
        return {}
    lines = source.splitlines()
    beside: dict[int, str] = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            above, line = [], node.lineno - 1
            while line in beside and lines[line - 1].lstrip().startswith("#"):
                above.append(beside[line])
                line -= 1
            own = beside.get(node.end_lineno or node.lineno, "")
            found[node.target.id] = " ".join([*reversed(above), own]).strip()
    return found
