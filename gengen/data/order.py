"""The order of the examples: a function of (seed, epoch), and the batch one of (seed, step).

Nothing is stored: a run resumed at step s sees the batches that an unbroken run would have seen.
"""

from __future__ import annotations

from functools import lru_cache
from operator import index
from typing import SupportsIndex

import numpy as np

from gengen.types import InputError

# A batch that runs over an epoch's end needs two epochs; twice that serves two runs side by side.
_EPOCHS_KEPT = 4

_SECOND = 2**32  # added to the seed of the second set's order: beyond seeds that people use


def batch_indices(
    num_examples: SupportsIndex, batch_size: SupportsIndex, seed: SupportsIndex, step: SupportsIndex
) -> np.ndarray:
    """Which examples make up the batch of a step.

    Steps walk through an endless row of epochs, each a fresh permutation of all examples: position
    p = step · batch_size + i is example permutation(seed, p // N)[p % N]. So batches run over
    epoch ends, each example comes once an epoch, and all batches have the same size, also where
    batch_size > N.

    Args:
        num_examples: N ≥ 1.
        batch_size: B ≥ 1.
        seed: ≥ 0.
        step: ≥ 0.

    Returns:
        int32 [B], each in 0..N-1.

    Raises:
        InputError: for a number out of its range.
    """
    # Python's integers, whatever was given: step · batch_size may pass 2^31.
    num_examples, batch_size, seed, step = map(index, (num_examples, batch_size, seed, step))
    if not 1 <= num_examples <= np.iinfo(np.int32).max:
        raise InputError(f"{num_examples} examples, but the order is of 1 to 2^31 - 1 of them")
    if batch_size < 1:
        raise InputError(f"batch_size = {batch_size}, but a batch has at least 1 example")
    if seed < 0 or step < 0:
        raise InputError(f"seed = {seed} and step = {step}, but neither may be negative")
    epoch, start = divmod(step * batch_size, num_examples)
    parts = []
    while batch_size > 0:
        part = _permutation(num_examples, seed, epoch)[start : start + batch_size]
        parts.append(part)
        batch_size -= len(part)
        epoch, start = epoch + 1, 0
    return np.concatenate(parts)


def two_orders(
    num_examples: int, num_others: int, batch_size: int, seed: int, step: int
) -> np.ndarray:
    """Return the rows of a batch of two sets, each in an order of its own: int32 [B, 2].

    Args:
        num_examples: of the first set.
        num_others: of the second set; 0: there is none, and rows are int32 [B].
        batch_size: as in `batch_indices`.
        seed: as in `batch_indices`.
        step: as in `batch_indices`.
    """
    rows = batch_indices(num_examples, batch_size, seed, step)
    if not num_others:
        return rows
    return np.stack([rows, batch_indices(num_others, batch_size, _SECOND + seed, step)], axis=1)


@lru_cache(maxsize=_EPOCHS_KEPT)
def _permutation(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    # Sorting raw Philox words instead of Generator.permutation: NumPy promises the words of a bit
    # generator for good, a Generator's methods only until some release improves them, and a run
    # must resume in the same order under a newer NumPy. Ties (N²/2^65) are harmless: the sort is
    # stable.
    words = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(num_examples)
    order = np.argsort(words, kind="stable").astype(np.int32)
    order.flags.writeable = False  # it is in the cache
    return order
