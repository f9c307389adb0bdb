"""Inception score by hand."""

import numpy as np
import pytest

from gengen.metrics.inception_score import inception_score
from gengen.types import InputError


def test_by_hand():
    """Each row's KL to (½, ½) is .9 ln 1.8 + .1 ln .2."""
    got = inception_score([[0.9, 0.1], [0.1, 0.9]], splits=1)
    assert got.value == pytest.approx(np.exp(0.9 * np.log(1.8) + 0.1 * np.log(0.2)), rel=1e-14)
    assert got.value == pytest.approx(1.444934811168)
    assert got.standard_error is None and got.n == 2


def test_extremes():
    """One-hot and even: the number of classes; all alike: 1."""
    assert inception_score(np.eye(4), splits=1).value == pytest.approx(4, rel=1e-14)
    assert inception_score(np.full((6, 3), 1 / 3), splits=2).value == pytest.approx(1, rel=1e-14)
    assert inception_score(np.tile(np.eye(4)[0], (5, 1)), splits=1).value == 1


def test_splits_are_in_order():
    """Two parts of one class each score 1; the same rows dealt out score 2."""
    probs = np.repeat(np.eye(2), 6, axis=0)
    assert inception_score(probs, splits=2) == (1.0, 0.0, 12)
    assert inception_score(probs[::2].repeat(1, axis=0)[[0, 3, 1, 4, 2, 5]], splits=3).value == 2
    # 7 rows in 2 parts: 3 and 4. Parts of (1, 1, 0 of class 1) and (all of class 2).
    got = inception_score(np.eye(2)[[0, 0, 1, 1, 1, 1, 1]], splits=2)
    first = np.exp(-(2 * np.log(2 / 3) + np.log(1 / 3)) / 3)
    assert got.value == pytest.approx((first + 1) / 2, rel=1e-14)
    assert got.standard_error == pytest.approx((first - 1) / 2, rel=1e-13)


@pytest.mark.parametrize(
    ("probs", "splits", "says"),
    [
        (np.eye(4), 10, "probs has 4 examples: at least 10"),
        (np.eye(4), 0, "splits = 0"),
        ([[2.0, -1.0]], 1, "apply a softmax"),
        ([[0.5, 0.1]], 1, "apply a softmax"),
        ([[np.nan, 1.0]], 1, "NaN"),
        ([0.5, 0.5], 1, "features are [N, D]"),
    ],
)
def test_bad_input_is_one_line(probs, splits, says):
    with pytest.raises(InputError) as error:
        inception_score(probs, splits)
    assert says in str(error.value) and "\n" not in str(error.value)
