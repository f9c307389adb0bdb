"""Units by hand, and the importance-weighted bound beside a model whose likelihood is known."""

import numpy as np
import pytest

from gengen.metrics import likelihood
from gengen.types import InputError


def test_uniform_pixels_have_eight_bits():
    """Each level is one of 256: the density of x on the 256 levels' width, 256/127.5, is even."""
    nats = 784 * np.log(256 / 127.5)
    assert likelihood.bits_per_dim(nats, 784) == pytest.approx(8, rel=1e-14)
    assert likelihood.bits_per_dim(784 * np.log(256), 784, level=1) == pytest.approx(8, rel=1e-14)
    assert likelihood.bits_per_dim(3 * np.log(2), 3, level=1) == pytest.approx(1, rel=1e-14)


def test_back_again():
    nats = np.array([-100.0, 0, 2500])
    bits = likelihood.bits_per_dim(nats, 3072)
    np.testing.assert_allclose(likelihood.nats_per_example(bits, 3072), nats, atol=1e-9)


def test_log_mean_exp_by_hand_and_without_overflow():
    w = np.log([1.0, 2.0, 6.0])
    for shift in (0, 5000, -5000):
        got = likelihood.importance_weighted(w + shift)
        assert got.value == pytest.approx(np.log(3) + shift, rel=1e-14)
        error = np.std([1, 2, 6], ddof=1) / (3**0.5 * 3)
        assert got.standard_error == pytest.approx(error, rel=1e-10)
    assert got.n == 3


def test_of_many_examples():
    w = np.log(np.array([[1.0, 3.0], [4.0, 4.0], [8.0, 8.0]]))
    got = likelihood.importance_weighted(w)
    logs = np.log([2, 4, 8])
    assert got.value == pytest.approx(logs.mean(), rel=1e-14)
    assert got.standard_error == pytest.approx(np.std(logs, ddof=1) / 3**0.5, rel=1e-12)
    assert got.n == 3


def test_bounds_a_known_likelihood_and_tightens():
    """z ~ N(0,1), x|z ~ N(z,1), so x ~ N(0,2); q = N(0,1): w = p(x|z). At x = 1, many draws."""
    z = np.random.default_rng(0).normal(size=(400, 2000))
    log_w = -0.5 * (1 - z) ** 2 - 0.5 * np.log(2 * np.pi)
    truth = -0.25 - 0.5 * np.log(4 * np.pi)
    values = [likelihood.importance_weighted(log_w[:, :k]).value for k in (1, 5, 2000)]
    assert values == sorted(values) and values[-1] == pytest.approx(truth, abs=2e-3)
    assert values[0] < truth - 0.3  # E ln w = -(1 + 1)/2 - ...: the evidence bound
    one = likelihood.importance_weighted(log_w.ravel())
    assert one.standard_error and abs(one.value - truth) < 4 * one.standard_error


def test_weights_of_zero():
    got = likelihood.importance_weighted(np.array([0.0, -np.inf]))
    assert got.value == pytest.approx(-np.log(2))
    assert likelihood.importance_weighted(np.array([-np.inf] * 2))[:2] == (-np.inf, None)


def test_effective_sample_size():
    assert likelihood.effective_sample_size(np.zeros(7) - 900) == pytest.approx(7)
    assert likelihood.effective_sample_size([0, -1000]) == pytest.approx(1)
    assert likelihood.effective_sample_size(np.log([1, 3])) == pytest.approx(1.6)


def test_bad_input():
    with pytest.raises(InputError, match="dims = 0"):
        likelihood.bits_per_dim(1.0, 0)
    with pytest.raises(InputError, match="level = 0"):
        likelihood.nats_per_example(1.0, 3, 0)
    with pytest.raises(InputError, match="NaN"):
        likelihood.importance_weighted([0, np.nan])
    with pytest.raises(InputError, match="NaN"):
        likelihood.importance_weighted([0, np.inf])
    with pytest.raises(InputError, match=r"\[K\] or \[N, K\]"):
        likelihood.importance_weighted(np.zeros((1, 1, 1)))
    with pytest.raises(InputError, match="finite largest"):
        likelihood.effective_sample_size([-np.inf])
