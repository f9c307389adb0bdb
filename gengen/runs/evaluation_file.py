"""The scores of a run in its directory: `evaluation.json`, which the report shows."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gengen.runs.evaluation import Score

NAME = "evaluation.json"
# Scores stand side by side only if all of these are equal.
SAME = ("checkpoint", "real", "real_fingerprint", "seed", "floor")


def write(run_dir: Path, scores: Sequence[Score], about: dict[str, Any]) -> Path:
    """Write scores into a run directory, atomically, and draw its report anew.

    Scores of an earlier evaluation stay if they are of the same checkpoint, data and seed; those of
    the same name are replaced.

    Args:
        run_dir: of the run.
        scores: to write.
        about: what they are of, as `scores.of_run` returns it.

    Returns:
        The path of the file.
    """
    from gengen.training.report import write_report

    path = Path(run_dir) / NAME
    before = _before(path)
    rows = [row(score) for score in scores]
    if all(before.get(key) == about.get(key) for key in SAME):
        new = {entry["name"] for entry in rows}
        rows = [entry for entry in before["rows"] if entry.get("name") not in new] + rows
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps({**about, "rows": rows}, indent=2), encoding="utf-8")
    os.replace(part, path)
    write_report(Path(run_dir))
    return path


def row(score: Score) -> dict[str, Any]:
    """Return a score as a row of the file."""
    return {
        "name": score.metric,
        "value": score.value,
        "error": score.standard_error,
        "n_real": score.n_real,
        "n_fake": score.n_fake,
        "floor": score.floor,
        "floor_error": score.floor_standard_error,
        "better": score.better,
        "note": score.note,
    }


def _before(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    whole = isinstance(found, dict) and isinstance(found.get("rows"), list)
    return found if whole and all(isinstance(entry, dict) for entry in found["rows"]) else {}
