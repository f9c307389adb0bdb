"""Periodic actions between train steps: evaluate, log, save, draw, report.

Each is due at its own steps. The loop calls `perform` after every dispatch, which asks all of them,
in a fixed order. A later one sees what an earlier one found: a best state is saved.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gengen.training import distributed
from gengen.training.checkpoint import Checkpoints, newest_valid
from gengen.training.progress import say
from gengen.training.record import Diverged, Record
from gengen.training.report import write_report
from gengen.training.signals import Abandoned, interruptible
from gengen.training.validation import Best
from gengen.types import InputError, PyTree, TrainState

SHARE = 0.1  # of training time that pictures may take, the first and the last one aside
FREE = 1.0  # seconds of a session's pictures, the first and the last one aside, never forgone
LONG = 5.0  # seconds from which a picture is announced


@dataclass
class Now:
    """The position of training after a dispatch.

    Attributes:
        step: of the stage; `shown` of the run, all stages counted.
        k: steps of the dispatch.
        state: as the compiled step returned it.
        get: takes one copy of it.
        is_end: the stage ends here; validation may end it early.
        is_stopping: the run was asked to stop here.
        is_best: validation has found no better state so far.
    """

    step: int
    shown: int
    k: int
    state: PyTree
    get: Callable[[PyTree], TrainState]
    is_end: bool
    is_stopping: bool
    is_best: bool = False

    @property
    def is_last(self) -> bool:
        """Whether no step follows in this session."""
        return self.is_end or self.is_stopping

    def copy(self) -> TrainState:
        """Return one copy of the state."""
        return self.get(self.state)


class Action(Protocol):
    """Something done now and then."""

    def due(self, now: Now) -> bool:
        """Return whether to act."""
        ...

    def act(self, now: Now) -> None:
        """Do it."""
        ...


@dataclass
class Evaluate:
    """Score the state on validation data."""

    best: Best
    record: Record

    def due(self, now: Now) -> bool:
        """Return whether an evaluation is due at one of the last k steps."""
        return self.best.is_due(now.step, now.k)

    def act(self, now: Now) -> None:
        """Score; a run out of patience ends."""
        with self.record.paused():
            now.is_best = self.best.score(now.copy())
        now.is_end = now.is_end or self.best.is_over


@dataclass
class Log:
    """Write a line of metrics."""

    every: int
    record: Record
    checkpoints: Path  # where the last good one is looked up

    def due(self, now: Now) -> bool:
        """Return whether a line is due: at the last step too."""
        return now.is_last or now.step % self.every == 0

    def act(self, now: Now) -> None:
        """Write the line.

        Raises:
            Diverged: naming the last good checkpoint.
        """
        try:
            self.record.write(now.shown, now.is_last)
            now.is_stopping = now.is_stopping or self.record.error is not None
        except Diverged as end:
            good = newest_valid(self.checkpoints)
            kept = f"the last good checkpoint is {good}" if good else "there is none before"
            cure = "a smaller learning rate may help; --on-nan skip leaves out single bad steps"
            raise Diverged(f"training diverged {end}; {kept}; {cure}") from None


@dataclass
class Save:
    """Save a checkpoint."""

    every: int
    record: Record
    checkpoints: Checkpoints

    def due(self, now: Now) -> bool:
        """Return whether one is due: of the last state and of the best one too."""
        return now.is_last or now.is_best or now.step % self.every == 0

    def act(self, now: Now) -> None:
        """Save it, in the background."""
        with self.record.paused():
            self.checkpoints.save(now.copy())


class Picture:
    """Draw samples, as long as this takes no more than `SHARE` of the training time.

    The first picture of a session compiles the sampler, the last one shows the result: both are
    always drawn. One between is skipped if it would pass the bound, by the time of the one before.
    A run that is asked to stop while one is drawn abandons it.
    """

    def __init__(
        self,
        every: int,
        record: Record,
        draw: Callable[[TrainState, int], np.ndarray | None],
        stop: threading.Event | None = None,
    ):
        self._every, self._record, self._draw, self._stop = every, record, draw, stop
        self._drawn, self._skipped = 0, 0
        self._expected = 0.0  # seconds of the next one
        self._spent = 0.0  # seconds of those that the bound is for

    def due(self, now: Now) -> bool:
        """Return whether to draw now; all processes alike."""
        if now.is_stopping:
            return False
        return now.is_end or (now.step % self._every == 0 and self._is_affordable(now.shown))

    def _is_affordable(self, step: int) -> bool:
        if not self._drawn:
            return True
        spent = self._spent + self._expected
        affordable = spent <= max(FREE, SHARE * self._record.trained)
        affordable = bool(distributed.from_main(int(affordable)))  # by one clock
        if not affordable:
            self._skipped += 1
            if self._skipped == 1:
                say(
                    f"no picture at step {step}: one takes {self._expected:.1f} s, and pictures "
                    f"may take {SHARE:.0%} of the training time; fewer are drawn"
                )
        return affordable

    def act(self, now: Now) -> None:
        """Draw one, and note how long it took."""
        if not self._drawn:
            say("compiling the sampler and drawing a picture ...")
        elif self._expected > LONG:
            say(f"sampling for the picture at step {now.shown}: about {self._expected:.0f} s ...")
        state, since = now.copy(), time.monotonic()
        with self._record.paused():
            try:
                image = interruptible(lambda: self._draw(state, now.shown), self._stop)
            except Abandoned:
                now.is_stopping = True
                return
            now.is_stopping = self._stop is not None and self._stop.is_set()
            seconds = time.monotonic() - since
            self._record.picture(image, now.shown)
            if image is not None and self._record.progress.takes_lines:
                say(f"picture of step {now.shown:,} drawn in {seconds:.1f} s")
        self._record.preview_seconds += seconds
        if self._drawn and not now.is_end:
            self._spent += seconds
        self._drawn, self._expected = self._drawn + 1, seconds
        if now.is_end:
            self._say_share()

    def _say_share(self) -> None:
        drawing, trained = self._record.preview_seconds, self._record.total
        share = drawing / (drawing + trained) if trained else 0.0
        say(f"pictures took {drawing:.1f} s, {share:.0%} of the time of the run")


@dataclass
class Report:
    """Write the report whenever a picture is due, in at most `SHARE` of the time.

    The loop writes it at the end of the run.
    """

    every: int
    record: Record
    out: Path
    _next: float = 0.0  # when one may be written again, by the monotonic clock

    def due(self, now: Now) -> bool:
        """Return whether to write it: before a stop too."""
        if not distributed.is_main():
            return False
        return now.is_stopping or (now.step % self.every == 0 and time.monotonic() >= self._next)

    def act(self, now: Now) -> None:
        """Write it. A page that cannot be written ends no training."""
        with self.record.paused():
            since = time.monotonic()
            try:
                write_report(self.out)
            except (OSError, InputError) as error:
                say(f"the report cannot be written: {error}")
            end = time.monotonic()
            self._next = end + (end - since) / SHARE


def perform(todo: Sequence[Any], now: Now) -> None:
    """Act where due, in order; each once.

    A picture that is abandoned because the run is asked to stop makes more of them due: the rest
    starts again from the first.
    """
    left, was_stopping = list(todo), now.is_stopping
    for action in todo:
        if action.due(now):
            action.act(now)
            left.remove(action)
        if now.is_stopping and not was_stopping:
            break
    else:
        return
    for action in left:
        if action.due(now):
            action.act(now)


def actions(
    every: dict[str, int],
    record: Record,
    best: Best,
    checkpoints: Checkpoints,
    draw: Callable[[TrainState, int], np.ndarray | None] | None,
    out: Path,
    stop: threading.Event,
) -> list[Any]:
    """Return the actions of a stage, in their order.

    Args:
        every: steps between events: of "log", "save" and "preview".
        record: of metrics and times.
        best: validation.
        checkpoints: of the stage.
        draw: (state, step) -> a picture, uint8 [H, W, C]; None: no pictures.
        out: run directory, for the report.
        stop: set when the run is asked to stop.
    """
    found: list[Any] = [
        Evaluate(best, record),
        Log(every["log"], record, checkpoints.folder),
        Save(every["save"], record, checkpoints),
    ]
    if draw:
        found.append(Picture(every["preview"], record, draw, stop))
    return [*found, Report(every["preview"], record, out)]
