"""Sliced Wasserstein distance: one dimension by hand, Gaussians in closed form."""

import numpy as np
import pytest

from gengen.metrics.sliced import sliced_wasserstein, squared_w2
from gengen.types import InputError


def test_one_dimension_by_hand():
    """{0, 1, 5} to {2, 3, 4}: 4, 4, 1 over 3. Of one dimension every direction says the same."""
    x, y = np.array([[5.0], [0], [1]]), np.array([[3.0], [2], [4]])
    got = sliced_wasserstein(real=x, fake=y)
    assert got.value == pytest.approx(3, rel=1e-13)


def test_sets_of_two_sizes():
    """{0, 3} to {0, 0, 3}: 1/6 of the mass moves by 3. And beside copies up to equal sizes."""
    x, y = np.array([[0.0], [3]]), np.array([[0.0], [0], [3]])
    np.testing.assert_allclose(squared_w2(x, y), [9 / 6], rtol=1e-14)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(10, 4)), rng.normal(size=(15, 4))
    wanted = squared_w2(a.repeat(3, axis=0), b.repeat(2, axis=0))
    np.testing.assert_allclose(squared_w2(a, b), wanted, rtol=1e-12)
    np.testing.assert_allclose(squared_w2(b, a), wanted, rtol=1e-12)


def test_a_shift_in_closed_form():
    """‖μ‖²/D in expectation, 25/3; of 4000 directions within 4 standard errors."""
    x = np.random.default_rng(1).normal(size=(50, 3))
    got = sliced_wasserstein(real=x, fake=x + np.array([0, 3, 4]), directions=4000)
    assert got.standard_error
    assert abs(got.value - 25 / 3) < 4 * got.standard_error


def test_the_standard_error_counts_examples_and_directions():
    """Of a shift μ, W₂² of a direction changes by 2 (θᵀμ)(θᵀx) for each x, and as much for each y.

    The mean over directions is 2 μᵀx / D; (θᵀμ)² = 25 cos², of variance 625 (1/5 - 1/9).
    """
    x = np.random.default_rng(1).normal(size=(200, 3))
    got = sliced_wasserstein(real=x, fake=x + np.array([0, 3, 4]), directions=1000)
    of_examples = 2 * (2 * 5 / 3) ** 2 / 200
    want = np.sqrt(of_examples + 625 * 4 / 45 / 1000)
    assert got.standard_error == pytest.approx(want, rel=0.1)


def test_gaussians():
    """‖μ‖²/D + (s - 1)² for a shift and a scale; 20,000 examples leave some 1e-3."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(20_000, 2)), 2 * rng.normal(size=(20_000, 2))
    got = sliced_wasserstein(real=x, fake=y, directions=50)
    assert got.value == pytest.approx(1, abs=0.05)


def test_symmetric_zero_and_the_same_for_a_seed():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(30, 5)), rng.normal(size=(20, 5))
    one = sliced_wasserstein(real=x, fake=y, directions=150)
    assert one == sliced_wasserstein(real=x, fake=y, directions=150)
    assert one.value == pytest.approx(sliced_wasserstein(real=y, fake=x, directions=150).value)
    assert sliced_wasserstein(real=x, fake=x).value == 0
    assert sliced_wasserstein(real=x, fake=y, directions=150, seed=1).value != one.value


def test_bad_input():
    with pytest.raises(InputError, match="directions = 0"):
        sliced_wasserstein(real=np.eye(2), fake=np.eye(2), directions=0)
    with pytest.raises(InputError, match="use one extractor"):
        sliced_wasserstein(real=np.eye(2), fake=np.eye(3))
    with pytest.raises(TypeError, match="positional"):
        sliced_wasserstein(np.eye(2), np.eye(2))  # pyright: ignore[reportCallIssue]
