"""A run on one page: `report.html`, readable anywhere, with nothing loaded from elsewhere.

From top to bottom: samples, scores, the loss, samples over time, technical curves, settings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gengen.training.ordering import is_technical, ordered
from gengen.training.reporting.page import write_page
from gengen.training.reporting.pictures import LARGE, SMALL, Picture, embedded
from gengen.training.reporting.recorded import NBSP, Recorded, Row, recorded
from gengen.training.reporting.text import flatten, is_number, literal
from gengen.viz import curves

MAX_PICTURES = 12  # in the strip of samples over time
MAX_OPEN = 12  # panels shown before the rest folds away; twice as many rows of a table
TABLES = {"config": "Configuration", "data": "Data", "versions": "Versions", "machine": "Machine"}
STORY = (
    "title",
    "paper",
    "command",
    "commit",
    "picture",
)  # of config.json; told elsewhere than in a table
FITTED = {"log_likelihood": "Log-likelihood, nats per example"}  # of a model fitted at once
# By what a picture shows, as `config.json` says: in one word, and as a caption.
CAPTIONS = {
    "samples": ("Samples", "Samples{at}"),
    "classes": ("Samples", "Samples{at}, of each class in turn"),
    "points": ("Samples", "Samples{at}, blue; data, grey"),
    "reconstructions": ("Reconstructions", "Reconstructions{at}, each below its example"),
    "translations": ("Translations", "Translations{at}; triplets: image, translation, target"),
    "cycles": ("Translations", "Translations{at}; triplets: image, translation, reconstruction"),
    "conditional": ("Samples", "Samples{at}; in each row: condition, samples, example"),
}


def write_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the page of a run from what a run directory holds so far.

    Metrics, samples and evaluation may be absent; the page says so.

    Args:
        run_dir: with `config.json`, and perhaps `metrics.jsonl`, `validation.jsonl`,
            `samples/step_*.png` and `evaluation.json` (see `reporting.measures`).
        out: the page to write; None: `report.html` in the run directory.

    Returns:
        The path of the page, replaced atomically.

    Raises:
        InputError: if there is no readable `config.json`.
        OSError: if the page cannot be written.
    """
    run = recorded(Path(run_dir))
    context = {
        **_story(run),
        **_panels(run),
        **_pictures(run),
        "evaluation": run.evaluation,
        "tables": _tables(run),
        "max_open": MAX_OPEN,
    }
    return write_page(Path(out or run.folder / "report.html"), "report.html.j2", context)


# What the run was


def _story(run: Recorded) -> dict[str, Any]:
    config = run.config
    return {
        "model": run.model,
        "family": literal(config.get("family", "")),
        "data": literal(run.data.get("name", "")),
        "title": literal(config.get("title") or ""),
        "paper": literal(config.get("paper") or ""),
        "command": literal(config.get("command") or ""),
        "commit": literal(config.get("commit") or ""),
        "summary": summary(run),
        "facts": [(name, value) for name, value in _facts(run).items() if value],
        "diverged": _diverged(run),
        "is_closed_form": run.is_closed_form,
    }


def _facts(run: Recorded) -> dict[str, str]:
    parameters, examples = run.config.get("parameters"), run.data.get("num_examples")
    common = {
        "Parameters": f"{parameters:,}" if is_number(parameters) else "",
        "Training examples": f"{examples:,}" if is_number(examples) else "",
        "Seed": literal(run.config.get("seed", "")),
    }
    if run.is_closed_form:
        measured = {
            FITTED.get(name, name): curves.number(values[-1])
            for name, (_, values) in run.columns.items()
        }
        return {**measured, "Fitting time": run.time, **common}
    return {
        "Steps": run.steps, "Training time": run.time, "Examples per second": run.rate, **common
    }  # fmt: skip


def summary(run: Recorded) -> str:
    """Return the run in one sentence, of what is known of it."""
    data, parameters = run.data, run.config.get("parameters")
    text = literal(run.config.get("model", "A model"))
    if is_number(parameters):
        text += f", {_millions(parameters)} parameters,"
    text += " fitted" if run.is_closed_form else " trained"
    if data.get("name"):
        text += f" {'to' if run.is_closed_form else 'on'} {literal(data['name'])}"
    shape, examples = data.get("shape"), data.get("num_examples")
    if isinstance(shape, list) and is_number(examples):
        sizes = f"{NBSP}×{NBSP}".join(str(n) for n in shape)
        text += f" ({examples:,} examples of {sizes}{' numbers' if len(shape) == 1 else ''})"
    if not run.is_closed_form:
        text += f" for {run.steps} steps"
    if run.time:
        text += f" in {run.time}"
    if run.rate:
        text += f", at {run.rate} examples per second"
    machine = run.config.get("machine")
    if isinstance(machine, dict) and machine.get("device"):
        text += f" on {literal(machine['device'])}"
    return text + "."


def _millions(n: curves.Number) -> str:
    return f"{n / 1e6:.3g} million" if n >= 1e5 else f"{n:,}"


def _diverged(run: Recorded) -> str:
    """Which metrics are not finite at the end of the run, and since when; "" if none."""
    last: Row = run.rows[-1] if run.rows else {}
    bad = [name for name, v in last.items() if is_number(v) and not np.isfinite(v)]
    if not bad:
        return ""
    steps, values = run.column(bad[0])
    good = max((i for i, value in enumerate(values) if np.isfinite(value)), default=-1)
    names = " and ".join(bad) if len(bad) <= 2 else f"{bad[0]} and {len(bad) - 1} more metrics"
    return f"{names} not finite since step {steps[good + 1]:,}: the run diverged."


# How it went


def _panels(run: Recorded) -> dict[str, Any]:
    """Return the curves of the model's metrics, the loss first; and the technical ones."""
    columns = {} if run.is_closed_form else run.columns
    panels = {name: curves.panel(name, *columns[name]) for name in ordered(columns)}
    return {
        "panels": [panel for name, panel in panels.items() if not is_technical(name)],
        "technical": [panel for name, panel in panels.items() if is_technical(name)],
    }


# What came of it


def _pictures(run: Recorded) -> dict[str, Any]:
    """Return the latest picture, large, and a strip of them over time, small."""
    found = run.pictures
    num = min(MAX_PICTURES, len(found))
    chosen = [found[round(i)] for i in np.linspace(0, len(found) - 1, num)]
    strip = [embedded(step, path, SMALL) for step, path in chosen] if len(found) > 1 else []
    picture = latest(run)
    return {
        "latest": picture,
        "strip": [p for p in strip if p],
        "num_pictures": len(found),
        "picture_word": _words(run)[0],
        "caption": caption(run, picture),
        "no_picture": "This model does not sample." if run.picture == "" else "No samples yet.",
    }


def latest(run: Recorded) -> Picture | None:
    """Return the latest picture that can be read, large."""
    large = (embedded(step, path, LARGE) for step, path in reversed(run.pictures))
    return next((p for p in large if p), None)


def caption(run: Recorded, picture: Picture | None) -> str:
    """Return what a picture shows, and of which step."""
    if picture is None:
        return ""
    at = "" if run.is_closed_form else f" at step {picture.step:,}"
    return _words(run)[1].format(at=at)


def _words(run: Recorded) -> tuple[str, str]:
    is_points = run.picture == "samples" and run.data.get("shape") == [2]
    return CAPTIONS.get("points" if is_points else run.picture, CAPTIONS["samples"])


# With what


def _tables(run: Recorded) -> list[tuple[str, list[tuple[str, str]]]]:
    """Everything else in `config.json`, as titled tables of names and values."""
    config = run.config
    trees = {title: config[key] for key, title in TABLES.items() if config.get(key)}
    told = (*TABLES, *STORY, *(["steps"] if run.is_closed_form else []))
    trees["Run"] = {name: value for name, value in config.items() if name not in told}
    return [
        (title, [(name, literal(value)) for name, value in flatten(_as_dict(tree))])
        for title, tree in trees.items()
    ]


def _as_dict(tree: Any) -> dict[str, Any]:
    return tree if isinstance(tree, dict) else {"": tree}
