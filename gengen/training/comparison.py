"""Several runs on one page: samples, scores, curves on the same axes, and what differs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gengen.errors import InputError
from gengen.training.ordering import is_technical, ordered
from gengen.training.report import MAX_OPEN, caption, latest, summary
from gengen.training.reporting.measures import Measure
from gengen.training.reporting.page import write_page
from gengen.training.reporting.recorded import Recorded, recorded
from gengen.training.reporting.text import flatten, literal
from gengen.viz import curves

COLOURS = 8  # of curves: more runs than these cannot be told apart
# Settings that say where and when a run was made, not what it computes.
ASIDE = ("machine", "versions", "schema", "command", "commit", "title", "paper", "parameters_of")
ABSENT = "–"


def write_comparison(run_dirs: Sequence[Path], out: Path) -> Path:
    """Write a page that compares runs.

    Args:
        run_dirs: two to eight run directories.
        out: the page to write; replaced atomically where it exists.

    Returns:
        The path of the page.

    Raises:
        InputError: if one of them holds no run, is named twice, or there are too many.
        OSError: if the page cannot be written.
    """
    if not 2 <= len(run_dirs) <= COLOURS:
        raise InputError(f"{len(run_dirs)} runs: a comparison takes 2 to {COLOURS}")
    runs = [recorded(Path(folder)) for folder in run_dirs]
    names = _names([run.folder for run in runs])
    context = {
        "runs": [_shown(run, name) for run, name in zip(runs, names, strict=True)],
        "colours": {name: i for i, name in enumerate(names)},
        "differences": _differences(runs),
        "max_open": MAX_OPEN,
        **_panels(runs, names),
        **_scores(runs),
    }
    return write_page(Path(out), "comparison.html.j2", context)


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that differ."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if len({*names}) == len(names):
            return names
    raise InputError(f"{folders[0]} is named twice: compare different runs")


def _shown(run: Recorded, name: str) -> dict[str, Any]:
    """Return what the page says and shows of one run."""
    picture = latest(run)
    return {
        "name": name,
        "folder": str(run.folder),
        "summary": summary(run),
        "picture": picture,
        "caption": caption(run, picture),
    }


def _differences(runs: Sequence[Recorded]) -> list[tuple[str, list[str]]]:
    """Return the settings that differ, with each run's value."""
    trees = [{k: v for k, v in flatten(run.config) if k.split(".")[0] not in ASIDE} for run in runs]
    names = dict.fromkeys(name for tree in trees for name in tree)
    found = []
    for name in names:
        values = [json.dumps(tree[name]) if name in tree else None for tree in trees]
        if len({*values}) > 1:
            shown = [literal(tree[name]) if name in tree else ABSENT for tree in trees]
            found.append((name.removeprefix("config."), shown))
    return found


def _panels(runs: Sequence[Recorded], names: Sequence[str]) -> dict[str, Any]:
    """Return a panel for each metric that a run has, the loss first; technical ones apart."""
    columns = {
        name: run.columns
        for name, run in zip(names, runs, strict=True)
        if not run.is_closed_form
    }  # fmt: skip
    metrics = ordered(dict.fromkeys(key for found in columns.values() for key in found))
    panels = [
        curves.overlay(key, {name: found[key] for name, found in columns.items() if key in found})
        for key in metrics
    ]
    return {
        "panels": [panel for panel in panels if not is_technical(panel.name)],
        "technical": [panel for panel in panels if is_technical(panel.name)],
    }


def _scores(runs: Sequence[Recorded]) -> dict[str, Any]:
    """Return a row for each score: the runs' values, the best marked, and that of real data."""
    tables = [{(m.name, m.of): m for m in run.evaluation.measures} for run in runs]
    rows = []
    for key in dict.fromkeys(key for table in tables for key in table):
        found = [table.get(key) for table in tables]
        first = next(m for m in found if m)
        floors = dict.fromkeys(m.floor for m in found if m and m.floor)
        best = _best(found)
        rows.append({
            "name": first.name, "of": first.of, "better": first.better, "arrow": first.arrow,
            "cells": [(m.value if m else "", i == best) for i, m in enumerate(found)],
            "floor": "; ".join(floors),
        })  # fmt: skip
    return {
        "scores": rows,
        "floors": any(row["floor"] for row in rows),
        "is_mixed": _mixed(runs),
    }


def _best(found: Sequence[Measure | None]) -> int | None:
    """Return which value is the best; None if there are no two to compare, or no direction."""
    amounts = [(m.amount, i) for i, m in enumerate(found) if m and math.isfinite(m.amount)]
    better = next(m.better for m in found if m)
    if len(amounts) < 2 or better not in ("lower", "higher"):
        return None
    return (min if better == "lower" else max)(amounts)[1]


def _mixed(runs: Sequence[Recorded]) -> str:
    """Return in what the evaluations of the runs differ, of what they must have in common."""
    abouts = [dict(run.evaluation.about) for run in runs if run.evaluation.measures]
    mixed = [
        name
        for name in dict.fromkeys(name for about in abouts for name in about)
        if len({about.get(name) for about in abouts}) > 1
    ]
    return ", ".join(mixed)
