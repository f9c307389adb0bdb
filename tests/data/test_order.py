from __future__ import annotations

import numpy as np
import pytest

from gengen.data import batch_indices
from gengen.types import InputError


def walk(num_examples: int, batch_size: int, seed: int, steps: int) -> np.ndarray:
    return np.concatenate([batch_indices(num_examples, batch_size, seed, s) for s in range(steps)])


@pytest.mark.parametrize(
    ("num_examples", "batch_size"), [(12, 4), (10, 3), (7, 7), (5, 12), (1, 1), (1, 3), (3, 1)]
)
def test_each_example_comes_once_an_epoch(num_examples, batch_size):
    epochs = 6
    steps = -(-epochs * num_examples // batch_size)
    order = walk(num_examples, batch_size, 0, steps)[: epochs * num_examples]
    assert order.dtype == np.int32
    assert batch_indices(num_examples, batch_size, 0, 0).shape == (batch_size,)
    for epoch in order.reshape(epochs, num_examples):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(num_examples))


def test_epochs_differ():
    first, second = walk(100, 100, 0, 2).reshape(2, 100)
    assert (first != second).sum() > 80
    assert (first != np.arange(100)).sum() > 80


def test_seeds_differ():
    assert (batch_indices(100, 100, 0, 0) != batch_indices(100, 100, 1, 0)).sum() > 80


def test_a_batch_is_a_function_of_seed_and_step_alone():
    in_turn = [batch_indices(50, 8, 3, step) for step in range(60)]
    for step in (59, 0, 31, 6):  # further apart than the cache reaches
        batch_indices(50, 8, 4, 1000 + step)
        np.testing.assert_array_equal(batch_indices(50, 8, 3, step), in_turn[step])


def test_the_batch_size_does_not_change_the_order():
    np.testing.assert_array_equal(walk(10, 4, 5, 15), walk(10, 6, 5, 10))


def test_a_batch_is_the_callers_to_change():
    batch_indices(6, 6, 0, 0)[:] = 0
    np.testing.assert_array_equal(np.sort(batch_indices(6, 6, 0, 0)), np.arange(6))


def test_the_order_is_pinned():
    # A change here breaks the resuming of every run there is.
    assert batch_indices(10, 12, 0, 0).tolist() == PINNED


def test_numbers_of_numpy_do_not_overflow():
    step = np.int32(2**31 - 1)
    expected = batch_indices(10, 3, 0, 2**31 - 1)
    np.testing.assert_array_equal(batch_indices(10, 3, 0, step), expected)


PINNED = [0, 8, 9, 3, 7, 5, 1, 2, 6, 4, 3, 7]


def test_positions_are_uniform():
    counts = np.zeros((5, 5))
    for epoch in range(2000):
        counts[np.arange(5), batch_indices(5, 5, 0, epoch)] += 1
    # 400 ± 18 each: six standard deviations.
    assert np.abs(counts - 400).max() < 108


@pytest.mark.parametrize(
    "numbers", [(0, 1, 0, 0), (2**31, 1, 0, 0), (5, 0, 0, 0), (5, 1, -1, 0), (5, 1, 0, -1)]
)
def test_numbers_out_of_range(numbers):
    with pytest.raises(InputError):
        batch_indices(*numbers)
