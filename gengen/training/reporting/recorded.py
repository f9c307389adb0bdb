"""What a run directory holds so far, read leniently: old and damaged runs can be shown too."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gengen.errors import InputError
from gengen.training.reporting import pictures
from gengen.training.reporting.measures import Evaluation, read_evaluation
from gengen.training.reporting.text import is_number, literal
from gengen.training.run_dir import read_metrics
from gengen.viz import curves

# Keys of a metrics line that are no metrics.
RATE = "examples_per_s"
CLOCK = ("step", "seconds", RATE, "preview_seconds")
HELD_OUT = "held-out loss"  # the name of the loss in validation.jsonl
Row = dict[str, Any]
Column = tuple[list[curves.Number], list[curves.Number]]  # steps, values
NBSP = "\u00a0"


@dataclass(frozen=True)
class Recorded:
    """A run as its files tell it.

    Attributes:
        folder: run directory.
        config: of `config.json`.
        rows: lines of `metrics.jsonl`, with a step.
        logged: steps and values of each key of `rows`, in the order of their first lines.
        held_out: lines of `validation.jsonl`.
        pictures: steps and paths of `samples/step_*.png`.
        evaluation: of `evaluation.json`.
    """

    folder: Path
    config: dict[str, Any]
    rows: list[Row]
    logged: dict[str, Column]
    held_out: list[Row]
    pictures: list[tuple[int, Path]]
    evaluation: Evaluation

    @property
    def model(self) -> str:
        """Name of the model."""
        return literal(self.config.get("model", "unnamed model"))

    @property
    def data(self) -> dict[str, Any]:
        """What is known of the data: "name", "shape", "num_examples", ..."""
        data = self.config.get("data")
        return data if isinstance(data, dict) else {"name": data} if data else {}

    @property
    def is_closed_form(self) -> bool:
        """Whether the model was fitted at once: the loop notes a batch size, a fit does not."""
        return "batch_size" not in self.config and self.config.get("steps") == 1

    @property
    def picture(self) -> str:
        """What pictures show: "samples", "conditional", "reconstructions"; "" if there are none."""
        return literal(self.config.get("picture", "samples"))

    @property
    def steps(self) -> str:
        """Steps taken, "600 of 1,200"."""
        done, planned = (self.rows[-1]["step"] if self.rows else 0), self.config.get("steps")
        text = f"{done:,}"
        return f"{text} of {planned:,}" if is_number(planned) and planned != done else text

    @property
    def time(self) -> str:
        """Time of training, or ""."""
        times = self.column("seconds")[1]
        return curves.duration(times[-1]).replace(" ", NBSP) if times else ""

    @property
    def rate(self) -> str:
        """Median of the examples per second, or ""."""
        rates = [rate for rate in self.column(RATE)[1] if np.isfinite(rate)]
        return curves.number(float(np.median(rates)), 3) if rates else ""

    def column(self, key: str) -> Column:
        """Return steps and values of the lines that have the metric."""
        return self.logged.get(key, ([], []))

    @property
    def columns(self) -> dict[str, Column]:
        """Steps and values of every metric, in the order they were logged."""
        found = {name: column for name, column in self.logged.items() if name not in CLOCK}
        if self.held_out:
            found[HELD_OUT] = _columns(self.held_out)["loss"]
        if RATE in self.logged:
            found[RATE] = self.logged[RATE]
        return found


def recorded(folder: Path) -> Recorded:
    """Read a run directory; metrics, pictures and scores may be absent.

    Raises:
        InputError: if there is no readable `config.json`.
    """
    folder = Path(folder)
    config = _config(folder / "config.json")
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if _is_row(row)]
    return Recorded(
        folder,
        config,
        rows,
        _columns(rows),
        [
            row
            for row in read_metrics(folder / "validation.jsonl")
            if _is_row(row) and is_number(row.get("loss"))
        ],
        pictures.found_in(folder / "samples"),
        read_evaluation(folder / "evaluation.json"),
    )


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


def _columns(rows: list[Row]) -> dict[str, Column]:
    """Return steps and values by key, in one pass: there may be many lines."""
    found: dict[str, Column] = {}
    for row in rows:
        for key, value in row.items():
            if is_number(value):
                steps, values = found.setdefault(key, ([], []))
                steps.append(row["step"])
                values.append(value)
    return found


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and is_number(row.get("step")) and bool(np.isfinite(row["step"]))
