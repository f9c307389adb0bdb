"""AR(p) against the Gaussian that it is, and its fits against what theory says of their errors."""

import jax
import numpy as np
import pytest

from gengen.autoregressive import ar
from gengen.contract import Task
from gengen.types import InputError

KEY = jax.random.key(0)
PHI = np.array([0.5, -0.6, 0.2])
MODEL = {"params": {"c": np.float32(0.7), "phi": np.float32(PHI), "variance": np.float32(0.49)}}


def _autocovariance(phi, variance, lags):
    """By the moving average that the process is: γ_k = σ² Σ_j ψ_j ψ_{j+k}."""
    psi = np.zeros(600)
    psi[0] = 1
    for j in range(1, len(psi)):
        psi[j] = sum(f * psi[j - i - 1] for i, f in enumerate(phi) if j > i)
    return variance * np.array([psi[: len(psi) - k] @ psi[k:] for k in range(lags)])


def _normal(T):
    """μ and the covariance of T values in a row, float64."""
    gamma = _autocovariance(PHI, 0.49, T)
    lags = np.abs(np.subtract.outer(np.arange(T), np.arange(T)))
    return 0.7 / (1 - PHI.sum()), gamma[lags]


def test_markov_chain_has_the_stationary_variance():
    model = {"params": {"c": 0.3, "phi": np.array([0.8]), "variance": 0.36}}
    mean, covariance = ar.stationary(model)
    np.testing.assert_allclose(mean, 1.5, rtol=1e-12)
    np.testing.assert_allclose(covariance, [[0.36 / (1 - 0.64)]], rtol=1e-12)


def test_stationary_covariance_is_that_of_the_moving_average():
    np.testing.assert_allclose(ar.stationary(MODEL)[1], _normal(3)[1], rtol=1e-5)  # φ in float32


def test_log_prob_is_that_of_the_gaussian():
    T = 9
    mean, covariance = _normal(T)
    x = np.random.default_rng(0).normal(size=(5, T)).astype(np.float32)
    d = x - mean
    square = np.sum(d * np.linalg.solve(covariance, d.T).T, 1)
    want = -0.5 * (square + np.linalg.slogdet(covariance)[1] + T * np.log(2 * np.pi))
    got = ar.log_prob(ar.Config(shape=(T,), order=3), MODEL, x)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_forecast_is_the_conditional_of_the_gaussian():
    T, known = 9, 5
    mean, covariance = _normal(T)
    x = np.random.default_rng(1).normal(size=(4, known))
    inner = np.linalg.solve(covariance[:known, :known], covariance[:known, known:])
    want = mean + (x - mean) @ inner
    spread = covariance[known:, known:] - covariance[known:, :known] @ inner
    got, std = ar.forecast(ar.Config(order=3), MODEL, x, T - known)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(std, np.sqrt(np.diag(spread)), rtol=1e-5)


def test_samples_have_the_moments_of_the_gaussian():
    T, num = 8, 20_000
    x = np.asarray(ar.sample(ar.Config(shape=(T,), order=3), MODEL, jax.random.key(0), num))
    mean, covariance = _normal(T)
    std = np.sqrt(covariance[0, 0])
    np.testing.assert_allclose(x.mean(0), mean, atol=4.5 * std / np.sqrt(num))
    # var of a sample covariance is at most 2 γ_0² / num
    np.testing.assert_allclose(
        np.cov(x.T), covariance, atol=4.5 * np.sqrt(2 / num) * covariance[0, 0]
    )


@pytest.mark.parametrize("estimator", ar.ESTIMATORS)
def test_the_error_of_fits_has_the_known_covariance(estimator):
    """√T (φ̂ - φ) → N(0, σ² Γ⁻¹): by 400 series of 2,000 values."""
    T, num = 2000, 400
    x = np.asarray(ar.sample(ar.Config(shape=(T,), order=3), MODEL, jax.random.key(1), num))
    cfg = ar.Config(shape=(T,), order=3, estimator=estimator)
    fits = [ar.fit(cfg, series[None], KEY)["params"] for series in x]
    error = np.stack([np.float64(f["phi"]) for f in fits]) - PHI
    want = 0.49 * np.linalg.inv(_normal(3)[1]) / T
    # Bias is of order 1/T, a fifteenth of the standard deviation; covariances of 400 draws are
    # known within sqrt(2/400) = 7 % of the variances.
    np.testing.assert_allclose(
        np.cov(error.T), want, atol=4 * np.sqrt(2 / num) * np.diag(want).max()
    )
    assert np.all(np.abs(error.mean(0)) < 5 * np.sqrt(np.diag(want) / num) + 4 / T)
    np.testing.assert_allclose(np.mean([f["variance"] for f in fits]), 0.49, rtol=0.01)
    np.testing.assert_allclose(np.mean([f["c"] for f in fits]), 0.7, rtol=0.02)


def test_many_series_are_fitted_as_one():
    x = np.asarray(ar.sample(ar.Config(shape=(50,), order=3), MODEL, jax.random.key(2), 4000))
    found = ar.fit(ar.Config(shape=(50,), order=3), x, KEY)["params"]
    np.testing.assert_allclose(found["phi"], PHI, atol=5 / np.sqrt(x.size))


def test_an_unstable_process_has_no_stationary_distribution():
    grows = {"params": {"c": 0.0, "phi": np.array([0.6, 0.5]), "variance": 1.0}}
    assert ar.is_stable(MODEL)
    assert not ar.is_stable(grows)
    with pytest.raises(InputError, match="no stationary distribution"):
        ar.sample(ar.Config(order=2), grows, jax.random.key(0), 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ar.Config(order=0), "Config.order = 0"),
        (lambda: ar.Config(shape=(3,), order=3), r"longer than order = 3"),
        (lambda: ar.Config(estimator="burg"), "Config.estimator = 'burg'"),
        (lambda: ar.Config.for_task(Task((8, 8, 1))), r"series, an array \[N, T\]"),
        (lambda: ar.fit(ar.Config(), np.ones((2, 100)), KEY), "x is constant"),
        (lambda: ar.fit(ar.Config(), np.full((2, 100), np.nan), KEY), "not finite"),
        (lambda: ar.forecast(ar.Config(order=3), MODEL, np.ones((2, 2)), 1), r"\[N, ≥ 3\]"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
