"""Experiment trackers: where metrics and pictures of a run go besides its own directory.

A tracker of your own has the three methods of `Tracker`; `loop.run(..., tracker=...)` takes it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from gengen.types import InputError

# (step, mean metrics since the line before): see `loop.run`.
OnMetrics = Callable[[int, Mapping[str, float]], None]


@runtime_checkable
class Tracker(Protocol):
    """Receives what a run logs, in process 0."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the mean metrics of the steps since the last call, up to `step`."""
        ...

    def image(self, step: int, image: np.ndarray) -> None:
        """Take a picture of samples, uint8 [H, W, C]."""
        ...

    def close(self) -> None:
        """Finish: nothing follows in this session."""
        ...


class TensorBoard:
    """Event files in the folder `tensorboard` of a run."""

    def __init__(self, out: Path, step: int, settings: Mapping[str, Any]):
        from tensorboardX import SummaryWriter

        # What a broken-off run wrote after `step` is hidden: it is written anew.
        folder, after = str(out / "tensorboard"), step + 1 if step else None
        self._writer = SummaryWriter(folder, purge_step=after)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write scalars."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, image: np.ndarray) -> None:
        """Write a picture."""
        self._writer.add_image("samples", image, step, dataformats="HWC")

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases, in the project that WANDB_PROJECT names, or "gengen"."""

    def __init__(self, out: Path, step: int, settings: Mapping[str, Any]):
        self._wandb, kept = importlib.import_module("wandb"), _Identity(out / "wandb.id")
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "gengen"), name=out.name, dir=str(out),
            id=kept.read(), resume="allow", config=dict(settings),
        )  # fmt: skip
        kept.write(self._run.id)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log metrics."""
        self._run.log(dict(metrics), step=step)

    def image(self, step: int, image: np.ndarray) -> None:
        """Log a picture."""
        self._run.log({"samples": self._wandb.Image(image)}, step=step)

    def close(self) -> None:
        """Finish the run there."""
        self._run.finish()


class MLflow:
    """A run of MLflow, at MLFLOW_TRACKING_URI, in the experiment MLFLOW_EXPERIMENT_NAME."""

    def __init__(self, out: Path, step: int, settings: Mapping[str, Any]):
        self._mlflow, kept = importlib.import_module("mlflow"), _Identity(out / "mlflow.id")
        before = kept.read()
        name = {"run_id": before} if before else {"run_name": out.name}
        kept.write(self._mlflow.start_run(**name).info.run_id)
        if not before:
            self._mlflow.log_params({k: str(v)[:500] for k, v in _flat(settings).items()})

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log metrics."""
        self._mlflow.log_metrics(dict(metrics), step=step)

    def image(self, step: int, image: np.ndarray) -> None:
        """Log a picture, as an artifact."""
        self._mlflow.log_image(image, f"samples/step_{step:08d}.png")

    def close(self) -> None:
        """End the run there."""
        self._mlflow.end_run()


# name -> (tracker, the package it needs); the extra of gengen has the same name.
TRACKERS: dict[str, tuple[Callable[[Path, int, Mapping[str, Any]], Tracker], str]] = {
    "tensorboard": (TensorBoard, "tensorboardX"),
    "wandb": (WandB, "wandb"),
    "mlflow": (MLflow, "mlflow"),
}


class Trackers:
    """The trackers of a run: opened at its first train step, closed at its end.

    Args:
        asked: trackers, and names of `TRACKERS`.
        out: run directory.
        on_metrics: called with the metrics of each line too, in every process.

    Raises:
        InputError: for an unknown name, or a package that is not installed.
    """

    def __init__(
        self,
        asked: Sequence[str | Tracker],
        out: Path,
        on_metrics: OnMetrics | None = None,
    ):
        self._asked = list(dict.fromkeys(asked))
        self._out, self._on_metrics = out, on_metrics
        self._open: list[Tracker] | None = None
        self.error: Exception | None = None  # that on_metrics raised
        for each in self._asked:
            if isinstance(each, str):
                _check(each)

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *exc: object) -> None:
        for each in self._open or ():
            each.close()

    def open(self, step: int, settings: Mapping[str, Any]) -> None:
        """Open the trackers, once: training goes on from `step`.

        Raises:
            InputError: for a service that refuses the run.
        """
        if self._open is None:
            chosen = self._asked if jax.process_index() == 0 else []
            self._open = []
            for each in chosen:
                is_name = isinstance(each, str)
                self._open.append(_opened(each, self._out, step, settings) if is_name else each)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Pass metrics on; what `on_metrics` raises is kept in `error`, and ends the run."""
        for each in self._open or ():
            each.log(step, metrics)
        if self._on_metrics:
            try:
                self._on_metrics(step, dict(metrics))
            except Exception as error:  # noqa: BLE001  raised again by the loop
                self.error = error

    def image(self, step: int, image: np.ndarray) -> None:
        """Pass a picture on."""
        for each in self._open or ():
            each.image(step, image)


def _check(tracker: str) -> None:
    """Check that a tracker is known, and that its package is there."""
    if tracker not in TRACKERS:
        raise InputError(f"tracker = {tracker!r}; it must be one of {', '.join(TRACKERS)}")
    package = TRACKERS[tracker][1]
    try:
        importlib.import_module(package)
    except ImportError:
        raise InputError(
            f"--tracker {tracker} needs {package}: pip install 'gengen[{tracker}]'"
        ) from None


def _opened(name: str, out: Path, step: int, settings: Mapping[str, Any]) -> Tracker:
    """Return an open tracker."""
    try:
        return TRACKERS[name][0](out, step, settings)
    except Exception as error:  # each service has exceptions of its own
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"--tracker {name} cannot be opened: {reason}") from error


class _Identity:
    """The name of a run with a tracker's service, kept in a file: a resumed run goes on there."""

    def __init__(self, path: Path):
        self._path = path

    def read(self) -> str | None:
        with suppress(OSError):
            return self._path.read_text().strip()
        return None

    def write(self, name: str) -> None:
        self._path.write_text(f"{name}\n")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as flat ones, {"config.beta": 1.0}."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        nested = isinstance(value, Mapping)
        found |= _flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return found
