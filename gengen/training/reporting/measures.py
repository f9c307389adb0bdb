"""Scores of a run for a reader: `evaluation.json`, of this format and of earlier ones."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gengen.training.reporting.text import flatten, is_number, literal
from gengen.viz.curves import number

ARROWS = {"lower": "↓", "higher": "↑", "floor": "≈"}
# What a row of a file without "better" is, by the first word of its name.
LOWER = {"fid", "fid_infinity", "kid", "sw", "nats", "bits", "bits_per_dim"}
HIGHER = {"is", "precision", "recall", "density", "coverage", "modes", "psnr", "ssim", "ms_ssim"}
KNOWN = ("name", "value", "error", "n_real", "n_fake", "floor", "floor_error", "better", "note")
# What all rows have in common, and its words on the page.
ABOUT = {
    "real": "against", "floor": "real data", "extractor": "features", "resize": "resize",
    "seed": "seed of the samples",
}  # fmt: skip
HIDDEN = (
    "fake", "num", "real_fingerprint", "extractor_sha256", "extractor_reason", "gengen",
    "checkpoint",
)  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """A line of the table of scores.

    Attributes:
        name: of the measure, without the extractor.
        of: the extractor's name, or "".
        value: with its standard error, "12.6 ± 3.3".
        floor: the same of real held-out data, or "".
        better: "lower", "higher", "floor" (near the floor), or "" if unknown.
        sizes: numbers of real and of generated examples, or "".
        note: anything else.
        amount: the value as a number; NaN if it is none.
    """

    name: str
    of: str
    value: str
    floor: str
    better: str
    sizes: str
    note: str
    amount: float

    @property
    def arrow(self) -> str:
        """The mark of `better`: one of "↓", "↑", "≈"; "" if unknown."""
        return ARROWS.get(self.better, "")


@dataclass(frozen=True)
class Evaluation:
    """All scores of a run: `about` are pairs of name and value; `error` says what is wrong."""

    measures: list[Measure] = field(default_factory=list)
    about: list[tuple[str, str]] = field(default_factory=list)
    error: str = ""


def read_evaluation(path: Path) -> Evaluation:
    """Read `evaluation.json`; empty if it is absent.

    Args:
        path: of an object with "rows", a list of {"name", "value", "error", "n_real", "n_fake",
            "floor", "floor_error", "better", "note"}, all but the name optional, and what all of
            them have in common. Earlier files have numbers in nested objects.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Evaluation()
    except (OSError, ValueError) as error:
        # Said on the page: a training run that ends well must not fail over its last line.
        return Evaluation(error=f"evaluation.json cannot be read: {error}")
    tree = dict(found) if isinstance(found, dict) else {"rows": found}
    rows = tree.pop("rows") if isinstance(tree.get("rows"), list) else []
    measures = [_measure(row) for row in rows if isinstance(row, dict)]
    about = [
        (words, literal(tree.pop(name)))
        for name, words in ABOUT.items()
        if tree.get(name) not in (None, "") and not isinstance(tree[name], dict)
    ]
    for name in (*ABOUT, *HIDDEN):
        if not isinstance(tree.get(name), dict):
            tree.pop(name, None)
    rest = [(name, value) for name, value in flatten(tree) if value is not None]
    return Evaluation(measures + [_measure({"name": n, "value": v}) for n, v in rest], about)


def _measure(row: Mapping[str, Any]) -> Measure:
    full = literal(row.get("name", ""))
    match = re.fullmatch(r"(.+)\[(.+)\]", full)
    name, of = match.groups() if match else (full, "")
    others = {k: v for k, v in row.items() if k not in KNOWN}
    notes = [literal(row["note"])] if row.get("note") else []
    notes += [f"{k}: {_measured(v)}" for k, v in flatten(others) if v is not None]
    sizes = [f"{row[k]:,}" for k in ("n_real", "n_fake") if is_number(row.get(k)) and row[k]]
    return Measure(
        name, of,
        value=plus_minus(row.get("value"), row.get("error")),
        floor=plus_minus(row.get("floor"), row.get("floor_error")),
        better=_better(row, name),
        sizes=" / ".join(sizes),
        note="; ".join(notes),
        amount=float(row["value"]) if is_number(row.get("value")) else math.nan,
    )  # fmt: skip


def _better(row: Mapping[str, Any], name: str) -> str:
    if row.get("better") in ARROWS:
        return row["better"]
    word = name.lower().split()[0] if name.split() else ""
    return "lower" if word in LOWER else "higher" if word in HIGHER else ""


def plus_minus(value: Any, error: Any) -> str:
    """Return "12.6 ± 3.3": the error has two digits, the value as many decimals; "" for None."""
    if value is None:
        return ""
    if not (is_number(value) and is_number(error) and math.isfinite(value)):
        return _measured(value)
    if not (math.isfinite(error) and error > 0):
        return number(value)
    decimals = max(0, 1 - math.floor(math.log10(error)))
    if decimals > 6:
        return f"{number(value)}\u00a0± {number(error, 2)}"
    sign = "−" if value < 0 else ""
    return f"{sign}{abs(value):,.{decimals}f}\u00a0±\u00a0{error:,.{decimals}f}"


def _measured(value: Any) -> str:
    return number(value) if is_number(value) else literal(value)
