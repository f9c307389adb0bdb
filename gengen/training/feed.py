"""From a data set to the batch that a compiled step takes: resident on the devices, or streamed.

Which examples make up a batch is a function of (seed, step), whichever way they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import jax
import numpy as np

from gengen.compile import CompiledStep, compile_step
from gengen.data import AnyData, Dataset, normalise, stream_batches, to_batch
from gengen.training.engine import Engine
from gengen.types import Batch, Key, Method, PyTree, TrainState


class Feed(NamedTuple):
    """How a step gets its batch.

    Attributes:
        read: (step, k) -> on the host, what the dispatch of steps step ... step + k - 1 takes of
            this process's part of the batch; with a leading axis of length k if k > 1.
        resident: what lives on the devices for all steps.
        batch: (what was read, *resident) -> the batch, inside the compiled step.
    """

    read: Callable[[int, int], PyTree]
    resident: tuple[PyTree, ...]
    batch: Callable[..., Batch]


@contextmanager
def feed(
    data: AnyData, *, batch_size: int, seed: int, steps: range, part: slice, workers: int
) -> Iterator[Feed]:
    """The batches of `steps`, read in their order.

    Args:
        data: resident if it is a `Dataset`: then only row numbers travel.
        batch_size: over all processes.
        seed: of the order.
        steps: which.
        part: this process's rows of each batch.
        workers: processes that read a stream ahead; 0: threads of this one do.
    """
    if isinstance(data, Dataset):
        rows = lambda step: data.rows(batch_size, seed, step)[part]  # noqa: E731
        yield Feed(
            lambda step, k: _stacked([rows(step + i) for i in range(k)]),
            (data.arrays,),
            lambda rows, arrays: to_batch(arrays, rows),
        )
        return
    batches = stream_batches(
        data,
        batch_size=batch_size,
        seed=seed,
        start=steps.start,
        stop=steps.stop,
        part=part,
        workers=workers,
    )
    try:
        yield Feed(lambda step, k: _stacked([next(batches) for _ in range(k)]), (), normalise)
    finally:
        close = getattr(batches, "close", None)
        if close:
            close()


def compiled_step(method: Method, source: Feed, engine: Engine, k: int) -> CompiledStep:
    """Return the compiled train step of `k` steps a dispatch: of what was read, then residents."""

    def train_step(key: Key, state: TrainState, read: PyTree, *resident: PyTree):
        return method.train_step(key, state, source.batch(read, *resident))

    return compile_step(train_step, engine.mode, k, engine.num_devices)


def first_batch(data: AnyData, batch_size: int, seed: int) -> Batch:
    """The whole first batch: `init` reads shapes from it, and some models their first scales."""
    rows = data.rows(batch_size, seed, 0)
    return to_batch(data.arrays, rows) if isinstance(data, Dataset) else normalise(data.read(rows))


def _stacked(batches: list[PyTree]) -> PyTree:
    if len(batches) == 1:
        return batches[0]
    return jax.tree.map(lambda *parts: np.stack(parts), *batches)
