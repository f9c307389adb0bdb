"""A run on one page: `report.html`, readable anywhere, with nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gengen.errors import InputError
from gengen.training.run_dir import read_metrics
from gengen.viz import curves

MAX_PICTURES = 12  # in the strip of samples over time
MAX_OPEN = 12  # panels shown before the rest folds away; twice as many rows of a table
LARGE, SMALL = 640, 256  # px: room for the latest picture, and for one of the strip
LARGE_BYTES, SMALL_BYTES = 700_000, 80_000  # a larger PNG is reduced: the page stays portable
# Keys of a metrics line that are no metrics.
CLOCK = ("step", "seconds", "examples_per_s", "preview_seconds")
TABLES = {"config": "Configuration", "data": "Data", "versions": "Versions", "machine": "Machine"}


@dataclass(frozen=True)
class Picture:
    """A PNG as the page shows it: `width` in CSS pixels; `pixelated` where its pixels matter."""

    step: int
    uri: str
    width: int
    pixelated: bool


@dataclass(frozen=True)
class Measure:
    """A line of the evaluation; `floor` is the same number for real held-out data, or ""."""

    name: str
    value: str
    floor: str
    note: str


def write_report(run_dir: Path) -> Path:
    """Write `report.html` from what a run directory holds so far.

    Metrics, samples and evaluation may be absent; the page says so.

    Args:
        run_dir: with `config.json`, and perhaps `metrics.jsonl`, `samples/step_*.png` and
            `evaluation.json`: measured numbers, flat or nested by name, and under "rows" a list of
            `{"name", "value", "floor", "note"}`.

    Returns:
        The path of the page, replaced atomically.

    Raises:
        InputError: if there is no readable `config.json`.
        OSError: if the page cannot be written.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    run_dir = Path(run_dir)
    config = _config(run_dir / "config.json")
    rows = [row for row in read_metrics(run_dir / "metrics.jsonl") if _is_row(row)]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        **_story(config, rows),
        **_curves(rows),
        **_pictures(run_dir / "samples"),
        **_evaluation(run_dir / "evaluation.json"),
        tables=_tables(config),
        axes=curves,
        number=curves.number,
        max_open=MAX_OPEN,
    )
    path = run_dir / "report.html"
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(page, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _config(path: Path) -> dict[str, Any]:
    # More lenient than `run_dir.read`: an old run can still be shown, if not resumed.
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path.parent} holds no run: {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} cannot be read: it holds no JSON object")
    return config


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and _is_number(row.get("step")) and bool(np.isfinite(row["step"]))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _column(
    rows: list[dict[str, Any]], key: str
) -> tuple[list[curves.Number], list[curves.Number]]:
    """Steps and values of the rows that have the metric."""
    has = [row for row in rows if _is_number(row.get(key))]
    return [row["step"] for row in has], [row[key] for row in has]


# What the run was


def _story(config: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    data = config.get("data")
    data = data if isinstance(data, dict) else {"name": data} if data else {}
    done, planned = (rows[-1]["step"] if rows else 0), config.get("steps")
    steps = f"{done:,}"
    if _is_number(planned) and planned != done:
        steps += f" of {planned:,}"
    times, rates = _column(rows, "seconds")[1], _column(rows, "examples_per_s")[1]
    rates = [rate for rate in rates if np.isfinite(rate)]
    time = duration(times[-1]) if times else ""
    rate = curves.number(float(np.median(rates)), 3) if rates else ""
    parameters = config.get("parameters")
    examples = data.get("num_examples")

    facts = {
        "Steps": steps,
        "Training time": time,
        "Examples per second": rate,
        "Parameters": f"{parameters:,}" if _is_number(parameters) else "",
        "Training examples": f"{examples:,}" if _is_number(examples) else "",
        "Seed": _literal(config.get("seed", "")),
    }
    return {
        "model": _literal(config.get("model", "unnamed model")),
        "family": _literal(config.get("family", "")),
        "data": _literal(data.get("name", "")),
        "summary": _summary(config, data, steps, time, rate),
        "facts": [(name, value) for name, value in facts.items() if value],
        "diverged": _diverged(rows),
    }


def _summary(config: dict[str, Any], data: dict[str, Any], steps: str, time: str, rate: str) -> str:
    """The run in one sentence, of what is known of it."""
    text = _literal(config.get("model", "A model"))
    if _is_number(config.get("parameters")):
        text += f", {_millions(config['parameters'])} parameters,"
    text += " trained"
    if data.get("name"):
        text += f" on {_literal(data['name'])}"
    shape, examples = data.get("shape"), data.get("num_examples")
    if isinstance(shape, list) and _is_number(examples):
        sizes = "\u00a0×\u00a0".join(str(n) for n in shape)
        text += f" ({examples:,} examples of {sizes}{' numbers' if len(shape) == 1 else ''})"
    text += f" for {steps} steps"
    if time:
        text += f" in {time}"
    if rate:
        text += f", at {rate} examples per second"
    machine = config.get("machine")
    if isinstance(machine, dict) and machine.get("device"):
        text += f" on {_literal(machine['device'])}"
    return text + "."


def _millions(n: curves.Number) -> str:
    return f"{n / 1e6:.3g} million" if n >= 1e5 else f"{n:,}"


def _diverged(rows: list[dict[str, Any]]) -> str:
    """Which metrics are not finite at the end of the run, and since when; "" if none."""
    last = rows[-1] if rows else {}
    bad = [name for name, v in last.items() if _is_number(v) and not np.isfinite(v)]
    if not bad:
        return ""
    steps, values = _column(rows, bad[0])
    good = max((i for i, value in enumerate(values) if np.isfinite(value)), default=-1)
    names = " and ".join(bad) if len(bad) <= 2 else f"{bad[0]} and {len(bad) - 1} more metrics"
    return f"{names} not finite since step {steps[good + 1]:,}: the run diverged."


def duration(seconds: curves.Number) -> str:
    """A time for a reader: "4.2 s", "3 min 05 s", "2 h 10 min"."""
    if not np.isfinite(seconds):
        return curves.number(seconds)
    if seconds < 59.95:
        return f"{seconds:.1f}\u00a0s"  # no line breaks before the unit
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\u00a0min {rest:02d}\u00a0s"
    return f"{minutes // 60:,}\u00a0h {minutes % 60:02d}\u00a0min"


# How it went


def _curves(rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = dict.fromkeys(key for row in rows for key in row if key not in CLOCK)
    columns = {name: _column(rows, name) for name in names}
    rate = _column(rows, "examples_per_s")
    return {
        "panels": [curves.panel(name, *column) for name, column in columns.items() if column[0]],
        "throughput": curves.panel("examples per second", *rate) if rate[0] else None,
    }


# What came of it


def _pictures(folder: Path) -> dict[str, Any]:
    """The latest picture, large, and the strip of them over time, small."""
    found = [(re.fullmatch(r"step_(\d+)\.png", path.name), path) for path in folder.glob("*.png")]
    pictures = sorted((int(match[1]), path) for match, path in found if match)
    num = min(MAX_PICTURES, len(pictures))
    chosen = [pictures[round(i)] for i in np.linspace(0, len(pictures) - 1, num)]
    strip = [_picture(step, path, SMALL, SMALL_BYTES) for step, path in chosen]
    large = (_picture(step, path, LARGE, LARGE_BYTES) for step, path in reversed(pictures))
    return {
        "latest": next((p for p in large if p), None),
        "strip": [p for p in strip if p] if len(pictures) > 1 else [],
        "num_pictures": len(pictures),
    }


def _picture(step: int, path: Path, room: int, max_bytes: int) -> Picture | None:
    """A PNG for that many CSS pixels of room; None if it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as file:
            image = file.convert("L" if file.mode in ("L", "1") else "RGB")
    except OSError:
        return None
    # Written enlarged, it is embedded small and enlarged again by the browser: fewer bytes, and
    # sharp on a screen of any density.
    image, factor = _undo_scale(image)
    pixelated = factor > 1 or image.width < LARGE // 2
    width = image.width * max(1, room // image.width)
    if width > room:
        # Shrunk here, to twice the room for dense screens: smoother than a browser does it.
        image.thumbnail((2 * room, 2 * room), Image.Resampling.LANCZOS)
        pixelated, width = False, room
    png = _encode(image)
    while len(png) > max_bytes and image.width > room:
        image.thumbnail((image.width * 3 // 4, image.height * 3 // 4), Image.Resampling.LANCZOS)
        png = _encode(image)
    if len(png) > max_bytes:
        png = _encode(image.quantize(64))
    uri = "data:image/png;base64," + base64.b64encode(png).decode()
    return Picture(step, uri, width, pixelated)


def _undo_scale(image: Any) -> tuple[Any, int]:
    """The image before each pixel became factor × factor of them, factor a power of 2."""
    from PIL import Image

    x, factor = np.asarray(image), 1
    while min(x.shape[:2]) > 32 and x.shape[0] % 2 == 0 == x.shape[1] % 2:
        half = x[::2, ::2]
        if not (np.repeat(np.repeat(half, 2, axis=0), 2, axis=1) == x).all():
            break
        x, factor = half, 2 * factor
    return Image.fromarray(np.ascontiguousarray(x)), factor


def _encode(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _evaluation(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"measures": [], "evaluation_error": ""}
    except (OSError, ValueError) as error:
        # Said on the page: a training run that ends well must not fail over its last line.
        return {"measures": [], "evaluation_error": f"evaluation.json cannot be read: {error}"}
    tree = dict(found) if isinstance(found, dict) else {"rows": found}
    rows = tree.pop("rows") if isinstance(tree.get("rows"), list) else []
    measures = [_measure(row) for row in rows if isinstance(row, dict)]
    rest = [(name, value) for name, value in _flatten(tree) if value is not None]
    measures += [Measure(name, _measured(value), "", "") for name, value in rest]
    return {"measures": measures, "evaluation_error": ""}


def _measure(row: dict[str, Any]) -> Measure:
    value, floor = (_measured(row[k]) if row.get(k) is not None else "" for k in ("value", "floor"))
    others = {k: v for k, v in row.items() if k not in ("name", "value", "floor", "note")}
    notes = [_literal(row["note"])] if row.get("note") else []
    notes += [f"{name}: {_measured(value)}" for name, value in _flatten(others)]
    return Measure(_literal(row.get("name", "")), value, floor, "; ".join(notes))


def _measured(value: Any) -> str:
    return curves.number(value) if _is_number(value) else _literal(value)


def _flatten(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The leaves of nested dicts, named "outer.inner"."""
    leaves = []
    for name, value in tree.items():
        if isinstance(value, dict):
            leaves += _flatten(value, f"{prefix}{name}.")
        else:
            leaves.append((prefix + name, value))
    return leaves


# With what


def _tables(config: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Everything in `config.json`, as titled tables of names and values."""
    trees = {title: config[key] for key, title in TABLES.items() if config.get(key)}
    trees["Run"] = {name: value for name, value in config.items() if name not in TABLES}
    return [
        (title, [(name, _literal(value)) for name, value in _flatten(_as_dict(tree))])
        for title, tree in trees.items()
    ]


def _as_dict(tree: Any) -> dict[str, Any]:
    return tree if isinstance(tree, dict) else {"": tree}


def _literal(value: Any) -> str:
    """A setting as it was given: not rounded; lists as `--set` takes them."""
    if isinstance(value, list):
        return ", ".join(_literal(v) for v in value)
    return str(value)
