"""Words that the field has better terms for, in pages and in docstrings."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GENERATED = ("FAULTS.md", "MUTANTS.md", "RESULTS.md")
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name not in GENERATED),
]
MODULES = sorted((ROOT / "gengen").rglob("*.py"))

# Pattern: what to write instead.
DISCOURAGED = {
    r"\btold\b": "conditioned on; called with; distinguished",
    r"\b(a|an|one|each|its) draw\b|\b(its|their) draws\b": "sample",
    r"\b(\d+|two|eight|many) draws\b": "samples",
    r"\bdraws (of|explain|lie|differ)\b": "samples",
    r"\bmend(s|ed|ing)?\b": "correct, fix, repair",
    r"\bremed(y|ies)\b": "transform, augmentation, method",
    r"\bcriticis\w+": "discriminate",
    r"\bnobody\b": "no one, or name what happens",
    r"\bmay have been\b|\bwhat was seen\b|\bwhat it was\b": "observation, measurement",
    r"\bheeds?\b": "use, obey",
    r"\bwhose affair\b|'s affair\b": "depends on",
    r"\bmust climb\b|\bclimbed\b": "maximised",
    r"\bof one's own\b": "your own",
}


def found(text: str) -> list[str]:
    return [
        f"{match[0]!r}, better: {better}"
        for pattern, better in DISCOURAGED.items()
        for match in re.finditer(pattern, text, re.I | re.M)
    ]


def docstrings(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
    return [text for text in texts if text]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_use_standard_terms(page):
    code = re.compile(r"^```.*?^```|`[^`]*`", re.M | re.S)
    assert not found(code.sub("", page.read_text(encoding="utf-8")))


def test_docstrings_use_standard_terms():
    wrong = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in MODULES
        for text in docstrings(path)
        for word in found(text)
    ]
    assert wrong == []


def test_the_patterns_find_what_they_are_for():
    for text in ("the model is told y", "eight draws of a", "A draw costs", "noise mends it"):
        assert found(text)
    assert not found("It draws samples. Folders, drawn anew, recommended.")
