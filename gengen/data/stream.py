"""A data set too large for memory: read batch by batch, ahead of the step, in the same order.

The position in the data is a function of the step, as it is for a set in memory. So nothing about
it has to be saved: a resumed run asks for the batch of its step, and gets it.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from gengen.data.order import two_orders
from gengen.types import Shape

HostBatch = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Stream:
    """N examples on a disk.

    Attributes:
        name: the canonical spec that `load` takes.
        read: rows [B] -> those examples on the host, as a `Dataset` stores them: "image" uint8
            [B, H, W, C] or "x" float32 [B, D], and perhaps "label" int32 [B]. Must be picklable.
            Of two sets it takes rows [B, 2], as `Dataset.read` does.
        num_examples: N.
        shape: of one example.
        fingerprint: SHA-256 (hex) that tells one content from another.
        classes: names of the labels; None where they have none.
        num_others: examples of the second set; 0 if there is none.
        target_shape: of the target of an example; None if there are no targets.
        other_shape: of an example of the second set; None if there is none.
    """

    name: str
    read: Callable[[np.ndarray], HostBatch]
    num_examples: int
    shape: Shape
    fingerprint: str
    classes: tuple[str, ...] | None = None
    num_others: int = 0
    target_shape: Shape | None = None
    other_shape: Shape | None = None

    def __len__(self) -> int:
        """N, the number of examples."""
        return self.num_examples

    @property
    def source(self) -> str:
        """The fingerprint, by which a `Dataset` that was read from here is known too."""
        return self.fingerprint

    def rows(self, batch_size: int, seed: int, step: int) -> np.ndarray:
        """Which examples make up the batch of a step: int32 [B], or [B, 2] of two sets."""
        return two_orders(len(self), self.num_others, batch_size, seed, step)


@dataclass(frozen=True)
class _ReadStep:
    """step -> this process's part of its batch; an object, so that it can go to a worker."""

    stream: Stream
    batch_size: int
    seed: int
    part: slice

    def __call__(self, step: int) -> HostBatch:
        _end_with_parent()
        rows = self.stream.rows(self.batch_size, self.seed, int(step))
        return self.stream.read(rows[self.part])


@cache
def _end_with_parent() -> None:
    """In a worker: end when the training does, even if that was killed and could not say so."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def stream_batches(
    stream: Stream,
    *,
    batch_size: int,
    seed: int,
    start: int,
    stop: int,
    part: slice = slice(None),
    workers: int = 0,
    prefetch: int = 4,
) -> Iterator[HostBatch]:
    """The batches of the steps `start` to `stop` - 1, read ahead of the caller.

    Each is what a `Dataset` of the same examples gives at that step. Close the iterator (a
    generator) to end the readers.

    Args:
        stream: what to read.
        batch_size: over all processes.
        seed: of the order.
        start: the first step.
        stop: the step after the last.
        part: the rows of each batch that this process reads.
        workers: processes that decode; 0: threads of this one.
        prefetch: batches read ahead (by each worker).
    """
    import grain

    steps = grain.MapDataset.range(start, stop).map(_ReadStep(stream, batch_size, seed, part))
    threads = grain.ReadOptions(num_threads=min(prefetch, 16), prefetch_buffer_size=prefetch)
    ahead: Any = steps.to_iter_dataset(threads)
    if workers:
        from absl import flags

        if not flags.FLAGS.is_parsed():  # Grain's workers ask absl, which nobody called
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch)
        ahead = ahead.mp_prefetch(options)
    with closing(iter(ahead)) as batches:
        yield from batches
