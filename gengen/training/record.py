"""Recording a training: metrics kept on the device until a line is due, profiles."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gengen.training import run_dir
from gengen.training.progress import Progress, say
from gengen.training.tracking import Trackers
from gengen.types import Metrics

Warn = Callable[[Mapping[str, float]], Sequence[str]]


class Diverged(RuntimeError):
    """A metric is NaN or infinite; the last checkpoint was saved before that."""


class Record:
    """Keeps metrics on the device until a line is due; then one transfer, one line, one look.

    Every process looks; process 0 writes.
    """

    def __init__(
        self, out: Path, step: int, steps: int, batch_size: int, trackers: Trackers, warn: Warn
    ):
        main = jax.process_index() == 0
        self._log = run_dir.MetricsLog(out / "metrics.jsonl", step) if main else None
        self._trackers = trackers
        self.progress = Progress(step, steps)
        self._batch_size, self._warn, self._warned = batch_size, warn, 0
        self._pending: list[tuple[int, Metrics]] = []
        self._seconds, self._since = (0.0, time.monotonic())  # trained since the last line
        self._trained = 0.0  # seconds of this session, before the last line
        self.waited = 0.0  # of the seconds since the last line: waiting for a batch
        # Of the whole run, those before a resume included; they are no part of the others.
        self.preview_seconds = self._log.preview_seconds if self._log else 0.0

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *exc: object) -> None:
        self.progress.close()
        if self._log:
            self._log.close()

    def add(self, k: int, metrics: Metrics) -> None:
        """Note `k` steps' mean metrics, without waiting for them."""
        self._pending.append((k, metrics))
        self.progress.advance(k, self.trained)

    @property
    def trained(self) -> float:
        """Seconds that this session has trained, pauses left out."""
        return self._trained + self._seconds + time.monotonic() - self._since

    @property
    def step_seconds(self) -> float:
        """Seconds of a step of this session, compilation aside; 0 if unknown."""
        return self.progress.step_seconds(self._trained)

    @property
    def total(self) -> float:
        """Seconds that the whole run has trained up to the last line; 0 but in process 0."""
        return self._log.seconds if self._log else 0.0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what happens inside out of the throughput."""
        self._seconds += time.monotonic() - self._since
        yield
        self._since = time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count what happens inside as waiting for data."""
        since = time.monotonic()
        yield
        self.waited += time.monotonic() - since

    def write(self, step: int, is_last: bool = False) -> None:
        """Write the mean metrics since the last line; of steps that were not skipped.

        Args:
            step: of the run.
            is_last: whether no step follows in this session.

        Raises:
            Diverged: if one of them is not finite.
        """
        taken, metrics = zip(*jax.device_get(self._pending), strict=True)
        self._pending.clear()
        with self.paused():
            seconds, self._seconds = max(self._seconds, 1e-9), 0.0
            self._trained += seconds
            waited, self.waited = self.waited, 0.0
        mean = _mean(metrics, np.array(taken))
        rate = sum(taken) * self._batch_size / seconds
        own = {"examples_per_s": round(rate, 1), "host_wait": round(waited / seconds, 4)}
        if self._log:
            self._log.seconds += seconds
            row = {"step": step, "seconds": round(self._log.seconds, 3)}
            if self.preview_seconds:
                row["preview_seconds"] = round(self.preview_seconds, 3)
            self._log.write(row | own | mean)
        with self.paused():
            self._trackers.log(step, own | mean)
        self.progress.show(mean, rate, self.trained, is_last)
        if mean.get("skipped") != 1:  # else there is nothing to judge
            self._say_once_more(step, self._warn(mean))
        bad = ", ".join(f"{k} = {v}" for k, v in mean.items() if not math.isfinite(v))
        if bad:
            raise Diverged(f"at step {step}: {bad}")

    def _say_once_more(self, step: int, warnings: Sequence[str]) -> None:
        """Say what is wrong where that is new: a training that stays ill says so but once."""
        if len(warnings) > self._warned:
            for words in warnings:
                say(f"gengen: warning: at step {step}: {words}")
        self._warned = len(warnings)

    def picture(self, image: np.ndarray | None, step: int) -> None:
        """Show samples, uint8 [H, W, C], in the trackers too."""
        if image is not None:
            self._trackers.image(step, image)

    @property
    def error(self) -> Exception | None:
        """What the caller's own function of metrics raised."""
        return self._trackers.error


def _mean(metrics: Sequence[Mapping[str, Any]], taken: np.ndarray) -> dict[str, float]:
    """Return mean metrics of dispatches of `taken` steps each, skipped steps left out.

    If all steps were skipped, `skipped` = 1 is all there is.
    """
    weights, mean = taken, {}
    if "skipped" in metrics[0]:
        skipped = np.array([m["skipped"] for m in metrics])
        mean["skipped"] = float(np.average(skipped, weights=taken))
        weights = taken * (1 - skipped)
    used = weights > 0
    for name in [k for k in metrics[0] if k != "skipped"] if used.any() else ():
        values = np.array([m[name] for m in metrics])
        mean[name] = float(np.average(values[used], weights=weights[used]))
    return mean


class Profiler:
    """Traces a few dispatches for TensorBoard's or Perfetto's profiler, once they are warm."""

    def __init__(self, folder: Path, start: int, steps: int):
        self._folder, self._start, self._stop = folder, start, start + steps
        self._is_on = False

    def step(self, step: int) -> None:
        """To be called before each dispatch."""
        if not self._is_on and self._start <= step < self._stop:
            jax.profiler.start_trace(str(self._folder))
            self._is_on = True
        elif self._is_on and step >= self._stop:
            self.close()

    def close(self) -> None:
        """Write the trace, if one was begun."""
        if self._is_on:
            jax.profiler.stop_trace()
            self._is_on = False
            say(f"profile: {self._folder}")
