"""Modes by hand, on the toy sets, and in stacked digits."""

import numpy as np
import pytest

from gengen.data import load
from gengen.metrics import classifier, modes
from gengen.types import InputError

CENTRES = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])


def test_by_hand():
    """σ = 1: within 3 is good, the edge included. One sample each of two modes, one between."""
    x = np.array([[0, 3.0], [0, 3.1], [9.0, 0], [10, 1], [5, 5]])
    got = modes.modes(x, CENTRES, 1.0)
    assert (got.found, got.total, got.high_quality) == (2, 3, 0.6)
    assert got.counts.tolist() == [1, 2, 0]
    wanted = np.log(3) + (np.log(1 / 3) + 2 * np.log(2 / 3)) / 3
    assert got.kl == pytest.approx(wanted, rel=1e-14)


def test_ends_of_the_scale():
    even = modes.modes(CENTRES, CENTRES, 0.1)
    assert (even.found, even.high_quality, even.kl) == (3, 1, pytest.approx(0, abs=1e-15))
    one = modes.modes(np.zeros((5, 2)), CENTRES, 0.1)
    assert (one.found, one.kl) == (1, pytest.approx(np.log(3)))
    none = modes.modes(np.full((5, 2), 50.0), CENTRES, 0.1)
    assert (none.found, none.high_quality, none.kl) == (0, 0, None)


@pytest.mark.parametrize(
    ("name", "count", "total"), [("ring8", modes.ring8, 8), ("grid25", modes.grid25, 25)]
)
def test_real_data_has_all_modes_and_the_share_of_a_gaussian(name, count, total):
    """1 - e^{-4.5} = 0.98889; 4 standard errors of 5,000 are 0.006."""
    got = count(load(f"{name}:test").arrays["x"])
    assert got.found == got.total == total
    assert got.high_quality == pytest.approx(1 - np.exp(-4.5), abs=0.006)
    assert got.kl < 0.01


def test_stacked_digits():
    """Channels with digits 4, 0, 7 are mode 407."""
    data = load("mnist5k").arrays
    first = [data["image"][data["label"] == k][0, ..., 0] for k in range(10)]
    reader = classifier.load("mnist-v1")
    images = np.stack([np.stack([first[4], first[0], first[7]], -1), np.stack(first[1:4], -1)])
    got = modes.stacked_digits(images, reader)
    assert (got.found, got.total, got.high_quality) == (2, 1000, None)
    assert np.flatnonzero(got.counts).tolist() == [123, 407]
    assert got.kl == pytest.approx(np.log(500))


def test_bad_input():
    with pytest.raises(InputError, match="std = 0"):
        modes.modes(CENTRES, CENTRES, 0)
    with pytest.raises(InputError, match="x has 3 dimensions"):
        modes.ring8(np.ones((4, 3)))
    with pytest.raises(InputError, match="NaN"):
        modes.ring8(np.full((4, 2), np.nan))
