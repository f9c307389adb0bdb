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
def test_fits_err_as_theory_says(estimator):
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


@pytest.mark.parametrize("shape", [(3, 2, 2), (5, 1, 1)], ids=str)
def test_an_image_is_a_series_of_its_numbers_row_by_row(shape):
    T = int(np.prod(shape))
    series, flat = ar.Config(shape=(T,), order=2), ar.Config(shape=shape, order=2)
    x = np.tanh(np.random.default_rng(0).normal(size=(20, T)).cumsum(1)).astype(np.float32)
    images, model = x.reshape(20, *shape), ar.fit(series, x, KEY)
    jax.tree.map(np.testing.assert_array_equal, ar.fit(flat, images, KEY), model)
    np.testing.assert_array_equal(ar.log_prob(flat, model, images), ar.log_prob(series, model, x))
    drawn = ar.sample(flat, model, KEY, 4)
    want = np.clip(ar.sample(series, model, KEY, 4), -1, 1)
    np.testing.assert_array_equal(np.reshape(drawn, (4, T)), want)


@pytest.mark.parametrize("shape", [(8, 8, 1), (16, 16, 3), (7, 5, 3), (2, 1, 1), (64,)], ids=str)
def test_the_default_is_stable_on_images(shape):
    """Constant margins, repeated channels, smooth rows: near to what cannot be inverted."""
    cfg = ar.Config.for_task(Task(shape))
    x = np.random.default_rng(0).normal(size=(50, *shape)).astype(np.float32)
    if len(shape) == 3:
        x = np.tanh(x.cumsum(0).cumsum(1)[..., :1] * np.ones(shape[2], np.float32))
        x[:, :1] = -1
    model = ar.fit(cfg, x, KEY)
    assert ar.is_stable(model)
    drawn = np.asarray(ar.sample(cfg, model, KEY, 4))
    assert drawn.shape == (4, *shape) and np.isfinite(drawn).all()
    assert np.isfinite(ar.log_prob(cfg, model, x)).all()


def test_what_is_not_stable_is_said():
    grows = {"params": {"c": 0.0, "phi": np.array([0.6, 0.5]), "variance": 1.0}}
    assert ar.is_stable(MODEL)
    assert not ar.is_stable(grows)
    with pytest.raises(InputError, match="no stationary distribution"):
        ar.sample(ar.Config(order=2), grows, jax.random.key(0), 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ar.Config(order=0), "Config.order = 0"),
        (lambda: ar.Config(shape=(3,), order=3), "longer than order = 3"),
        (lambda: ar.Config(estimator="best"), "Config.estimator = 'best'"),
        (lambda: ar.fit(ar.Config(), np.ones((2, 100)), KEY), "x is constant"),
        (lambda: ar.fit(ar.Config(), np.full((2, 100), np.nan), KEY), "non-finite"),
        (lambda: ar.forecast(ar.Config(order=3), MODEL, np.ones((2, 2)), 1), r"\[N, 3 or more\]"),
    ],
)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_yule_walker_divides_every_autocovariance_by_the_length():
    """So the matrix of autocovariances is positive definite, and the fit stable."""
    x = np.random.default_rng(4).normal(size=(3, 8)).astype(np.float32)
    wide = x.astype(np.float64)
    d = wide - wide.mean()
    gamma = [np.mean(np.sum(d[:, : 8 - k] * d[:, k:], 1)) / 8 for k in range(3)]
    want = np.linalg.solve([gamma[:2], gamma[1::-1]], gamma[1:])
    found = ar.fit(ar.Config(shape=(8,), order=2, estimator="yule_walker"), x, KEY)["params"]
    np.testing.assert_allclose(found["phi"], want, rtol=1e-5)


@pytest.mark.parametrize("order", [1, 3])
def test_least_squares_are_those_of_the_design_matrix(order):
    """[1, x_{t-1}, ..., x_{t-p}] row by row, solved by the normal equations in float64."""
    x = np.random.default_rng(2).normal(size=(2, 60)).cumsum(1).astype(np.float32)
    rows, targets = [], []
    for series in x.astype(np.float64):
        for t in range(order, 60):
            rows.append([1.0, *(series[t - i] for i in range(1, order + 1))])
            targets.append(series[t])
    A, now = np.array(rows), np.array(targets)
    want = np.linalg.solve(A.T @ A, A.T @ now)
    cfg = ar.Config(shape=(60,), order=order, estimator="least_squares")
    found = ar.fit(cfg, x, KEY)["params"]
    np.testing.assert_allclose(found["c"], want[0], rtol=1e-4)
    np.testing.assert_allclose(found["phi"], want[1:], rtol=1e-4, atol=1e-6)
    assert float(found["variance"]) == pytest.approx(np.mean((now - A @ want) ** 2), rel=1e-5)
