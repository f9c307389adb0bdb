"""Periodic actions between train steps: evaluate, log, save, draw. Each is due at its own steps.

The loop asks every action after every dispatch, in a fixed order: `if action.due(now):
action.act(now)`. A later one sees what an earlier one found: a best state is saved.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gengen.training import distributed
from gengen.training.checkpoint import Checkpoints, newest_valid
from gengen.training.record import Diverged, Record, say
from gengen.training.validation import Best
from gengen.types import PyTree, TrainState

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
            self.record.write(now.shown)
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
    """

    def __init__(
        self, every: int, record: Record, draw: Callable[[TrainState, int], np.ndarray | None]
    ):
        self._every, self._record, self._draw = every, record, draw
        self._drawn, self._skipped = 0, 0
        self._expected = 0.0  # seconds of the next one
        self._spent = 0.0  # seconds of those that the bound is for

    def due(self, now: Now) -> bool:
        """Return whether to draw now; all processes alike."""
        if now.is_end:
            return True
        return now.step % self._every == 0 and self._is_affordable(now.shown)

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
        with self._record.paused():
            since = time.monotonic()
            image = self._draw(now.copy(), now.shown)
            seconds = time.monotonic() - since
            self._record.picture(image, now.step)
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


def actions(
    every: dict[str, int],
    record: Record,
    best: Best,
    checkpoints: Checkpoints,
    draw: Callable[[TrainState, int], np.ndarray | None] | None,
) -> list[Any]:
    """Return the actions of a stage, in their order.

    Args:
        every: steps between events: of "log", "save" and "preview".
        record: of metrics and times.
        best: validation.
        checkpoints: of the stage.
        draw: (state, step) -> a picture, uint8 [H, W, C]; None: no pictures.
    """
    found: list[Any] = [
        Evaluate(best, record),
        Log(every["log"], record, checkpoints.folder),
        Save(every["save"], record, checkpoints),
    ]
    return [*found, Picture(every["preview"], record, draw)] if draw else found
