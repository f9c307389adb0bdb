"""The two-sample test: chance where nothing differs, certainty where all does, Bayes between."""

import numpy as np
import pytest

from gengen.metrics.c2st import c2st
from gengen.types import InputError


def test_same_distribution_is_chance_and_another_certain():
    """Of 200 answers, 4 binomial errors are 0.14."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 2))
    got = c2st(real=x, fake=rng.normal(size=(100, 2)))
    assert abs(got.value - 0.5) < 0.14 and got.n == 100
    assert got.standard_error == pytest.approx(0.035, rel=0.05)
    # Far from 0 and of other scales: what the scaling is for.
    far = np.array([1e4, 1e-4])
    assert c2st(real=x * far + 1e5, fake=(x + 6) * far + 1e5).value > 0.98


def test_bayes_accuracy():
    """N(0, 1) and N(2, 1): Φ(1) = 0.841; within 4 binomial errors of 600 answers, 0.06."""
    rng = np.random.default_rng(1)
    got = c2st(real=rng.normal(size=(300, 1)), fake=2 + rng.normal(size=(300, 1)))
    assert got.value == pytest.approx(0.841, abs=0.06)


def test_constant_features_are_no_division_by_zero():
    x = np.concatenate([np.random.default_rng(2).normal(size=(50, 1)), np.ones((50, 1))], axis=1)
    assert c2st(real=x, fake=x + np.array([0, 1]), hidden=10).value > 0.9


def test_bad_input():
    with pytest.raises(InputError, match="3 real and 2 fake"):
        c2st(real=np.ones((3, 1)), fake=np.ones((2, 1)), folds=2)
    with pytest.raises(InputError, match="real has 3 examples: at least 5"):
        c2st(real=np.ones((3, 1)), fake=np.ones((3, 1)))
    with pytest.raises(InputError, match="folds = 1"):
        c2st(real=np.ones((3, 1)), fake=np.ones((3, 1)), folds=1)
