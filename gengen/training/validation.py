"""Validation: how a training does on data it is not trained on, the best state kept, and an end.

    loop.run(..., validation=Validation(loss, every=500, patience=10))

Losses are lines of `validation.jsonl`, the state with the lowest is in `best/`: that is what a run
gives back, and what `gengen sample` and the others read. What is scored, kept and ended is a
function of the run's own steps, so a resumed run ends where an unbroken one does.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gengen.data import Dataset
from gengen.training import distributed
from gengen.training.checkpoint import Checkpoints, restore, steps_in
from gengen.training.run_dir import MetricsLog, read_metrics
from gengen.types import InputError, Key, PyTree, TrainState

FOLDER, LOG = "best", "validation.jsonl"


class Validation(NamedTuple):
    """What is looked at, and when it ends.

    Attributes:
        loss: (variables, key) -> a number, lower is better; the key is the same each time.
        every: steps from one look to the next; 0: there are none.
        patience: looks without a lower loss after which training ends; None: it goes on.
    """

    loss: Callable[[PyTree, Key], Any]
    every: int
    patience: int | None = None


NO_VALIDATION = Validation(lambda variables, key: math.nan, every=0)


class Best:
    """Scores states as they come, from a given step on, and keeps the best."""

    def __init__(self, out: Path, validation: Validation, key: Key, step: int):
        self._validation, self._key, self._out, self._start = validation, key, out, step
        rows = read_metrics(out / LOG) if validation.every else []
        self._losses = {row["step"]: row["loss"] for row in rows if row["step"] <= step}
        self._log: MetricsLog | None = None
        self._kept: Checkpoints | None = None

    def __enter__(self) -> Best:
        if self._validation.every:
            folder = self._out / FOLDER
            if distributed.is_main():
                self._log = MetricsLog(self._out / LOG, self._start)
                for later in (s for s in steps_in(folder) if s > self._start):
                    shutil.rmtree(folder / str(later))  # it comes again, the same
            self._kept = Checkpoints(folder)
        return self

    def __exit__(self, *exc: object) -> None:
        for each in (self._kept, self._log):
            if each:
                each.close()

    def is_due(self, step: int, k: int) -> bool:
        """Whether to look at the state after `step` steps, the last `k` of them at once."""
        every = self._validation.every
        return every > 0 and step // every > (step - k) // every

    def score(self, state: TrainState) -> bool:
        """Look at a state; whether it is the best so far, and so was kept."""
        step, loss = int(state.step), float(self._validation.loss(state.variables, self._key))
        better = loss < min(self._losses.values(), default=math.inf)
        self._losses[step] = loss
        if self._log:
            self._log.write({"step": step, "loss": loss})
        if better and self._kept:
            self._kept.save(state)
        return better

    @property
    def is_over(self) -> bool:
        """Whether patience has run out."""
        patience, best = self._validation.patience, self._step()
        return patience is not None and sum(step > best for step in self._losses) >= patience

    @property
    def words(self) -> str:
        """Why it is over."""
        step = self._step()
        return f"the loss on validation data, {self._losses[step]:.5g} at step {step}, fell no more"

    def _step(self) -> int:
        """Of the lowest loss, the first such; NaN is none."""
        known = {step: x for step, x in self._losses.items() if not math.isnan(x)}
        return min(known, key=lambda step: (known[step], step), default=0)

    def state(self, last: TrainState, say: Callable[[str], None]) -> TrainState:
        """The best one, once all is closed; the last, if none is kept."""
        if not self._validation.every:
            return last
        found = restore(self._out / FOLDER, jax.eval_shape(lambda: last), say)
        return last if found is None else found


def split(data: Dataset, share: float) -> tuple[Dataset, Dataset]:
    """A data set without a share of its examples, chosen evenly at random, and that share.

    Args:
        data: in memory.
        share: in (0, 1).

    Raises:
        InputError: if one of the two would be empty.
    """
    kept: dict[str, np.ndarray] = {}
    out: dict[str, np.ndarray] = {}
    for is_other in (False, True):  # two sets are split each for itself
        arrays = {k: a for k, a in data.arrays.items() if k.startswith("other") == is_other}
        if arrays:
            first, second = _rows(data, len(next(iter(arrays.values()))), share)
            kept |= {k: a[first] for k, a in arrays.items()}
            out |= {k: a[second] for k, a in arrays.items()}
    return (
        Dataset(data.name, kept, data.classes),
        Dataset(f"{data.name}, held out", out, data.classes),
    )


def _rows(data: Dataset, num: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of `num` examples that are kept, and those that are held out."""
    held = round(num * share)
    if not 0 < held < num:
        raise InputError(
            f"of {data.name}, {num} examples, a share {share:g} cannot be held out: it is in "
            "(0, 1), and leaves some"
        )
    order = np.random.default_rng(0).permutation(num)
    return np.sort(order[held:]), np.sort(order[:held])
