"""Factor analysis: EM example by example in float64, scikit-learn's optimum, the exact density."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from scipy import stats
from sklearn.decomposition import FactorAnalysis

from gengen.contract import Task
from gengen.density import factor_analysis as fa
from gengen.density.factor_analysis import Factors

NORMAL: Any = stats.multivariate_normal
CFG = fa.Config(shape=(6,), latent_dim=2, covariance_floor=0.0)
KEY = jax.random.key(0)


def data(num=500):
    rng = np.random.default_rng(0)
    W = rng.normal(size=(6, 2)) * [2.0, 0.7]
    noise = rng.normal(size=(num, 6)) * [0.2, 0.4, 0.6, 0.8, 1.0, 1.2]
    return (rng.normal(size=(num, 2)) @ W.T + noise + np.arange(6)).astype(np.float32)


def start():
    rng = np.random.default_rng(1)
    return Factors(rng.normal(size=(6, 2)), np.linspace(0.5, 2, 6))


def covariance(variables):
    p = {k: np.asarray(v, np.float64) for k, v in variables["params"].items()}
    return p["W"] @ p["W"].T + np.diag(p["variances"])


def sample_covariance(x):
    return np.cov(np.float64(x).T, ddof=0)


def test_a_step_is_the_regression_on_the_posteriors_moments():
    """E: the moments of z for each example; M: least squares of x on z, in NumPy."""
    x, (W, variances) = np.float64(data(50)), start()
    d = x - x.mean(0)
    C = W @ W.T + np.diag(variances)
    z = d @ np.linalg.inv(C) @ W
    V = np.eye(2) - W.T @ np.linalg.inv(C) @ W
    zz = sum(V + np.outer(a, a) for a in z)
    new = (d.T @ z) @ np.linalg.inv(zz)
    left = [
        np.mean([d[n, j] ** 2 - 2 * d[n, j] * new[j] @ z[n]
                 + new[j] @ (V + np.outer(z[n], z[n])) @ new[j] for n in range(50)])
        for j in range(6)
    ]  # fmt: skip
    got = fa.em_step(sample_covariance(x), start())
    np.testing.assert_allclose(got.W, new, rtol=1e-9)
    np.testing.assert_allclose(got.variances, left, rtol=1e-9)


def test_the_likelihood_increases_at_every_step_and_is_the_densitys():
    x = np.float64(data())
    S, now, values = sample_covariance(x), start(), []
    for _ in range(50):
        values.append(fa.log_likelihood(S, now))
        C = now.W @ now.W.T + np.diag(now.variances)
        assert values[-1] == pytest.approx(NORMAL.logpdf(x, x.mean(0), C).mean(), rel=1e-10)
        now = fa.em_step(S, now)
    assert np.diff(values).min() > 0 and values[-1] > values[0] + 0.5


def test_the_optimum_is_scikit_learns():
    x, cfg = data(), dataclasses.replace(CFG, max_steps=20_000, tolerance=1e-10)
    variables = fa.fit(cfg, x, KEY)
    other = FactorAnalysis(2, tol=1e-10, max_iter=20_000, svd_method="lapack").fit(np.float64(x))
    got = np.asarray(fa.log_prob(cfg, variables, x), np.float64)
    assert got.mean() == pytest.approx(other.score(np.float64(x)), abs=1e-5)
    # float32, and the last steps of two algorithms that stop at different points
    np.testing.assert_allclose(got, other.score_samples(np.float64(x)), atol=2e-3)
    np.testing.assert_allclose(covariance(variables), other.get_covariance(), atol=2e-3)


def test_log_prob_is_the_normal_density():
    x, variables = data(), fa.fit(CFG, data(), KEY)
    mean = np.asarray(variables["params"]["mean"])
    want = NORMAL.logpdf(x, mean, covariance(variables))
    np.testing.assert_allclose(fa.log_prob(CFG, variables, x), want, atol=1e-4)


def test_the_posterior_is_that_of_the_joint_gaussian():
    x, variables = data(8), fa.fit(CFG, data(), KEY)
    params = variables["params"]
    W, d = np.asarray(params["W"], np.float64), x - np.asarray(params["mean"])
    want = d @ np.linalg.solve(covariance(variables), W)  # cov(z, x) C⁻¹ (x - μ)
    np.testing.assert_allclose(fa.encode(CFG, variables, x), want, atol=1e-4)
    decoded = want @ W.T + np.asarray(params["mean"])
    np.testing.assert_allclose(fa.reconstruct(CFG, variables, x), decoded, atol=1e-4)


def test_samples_have_the_fitted_moments():
    variables = fa.fit(CFG, data(), KEY)
    x = np.asarray(fa.sample(CFG, variables, KEY, 20_000), np.float64)
    scale, mean = covariance(variables).max(), variables["params"]["mean"]
    np.testing.assert_allclose(x.mean(0), mean, atol=5 * (scale / 20_000) ** 0.5)
    np.testing.assert_allclose(np.cov(x.T), covariance(variables), atol=0.05 * scale)
    # Across the factors there is the noise alone: Uᵀ Ψ U.
    p = {k: np.asarray(v, np.float64) for k, v in variables["params"].items()}
    U = np.linalg.svd(p["W"])[0][:, 2:]
    noise = U.T @ np.diag(p["variances"]) @ U
    np.testing.assert_allclose(np.cov((x @ U).T), noise, atol=0.05 * noise.max())


def test_units_of_a_dimension_do_not_matter():
    units = np.array([1, 10, 0.1, 1, 5, 1], np.float32)
    begin = start()
    scaled = Factors(begin.W * units[:, None], begin.variances * units**2)
    cfg = dataclasses.replace(CFG, max_steps=30, tolerance=0.0)
    a = fa.fit(cfg, data(), KEY, start=begin)
    b = fa.fit(cfg, data() * units, KEY, start=scaled)
    np.testing.assert_allclose(
        covariance(b), covariance(a) * np.outer(units, units), rtol=1e-4, atol=1e-4
    )


def test_em_stops_at_a_smaller_increase_than_the_tolerance():
    S, tolerance = sample_covariance(data()), 1e-4
    cfg = dataclasses.replace(CFG, tolerance=tolerance)
    p = fa.fit(cfg, data(), KEY, start=start())["params"]
    now = Factors(np.asarray(p["W"], np.float64), np.asarray(p["variances"], np.float64))
    gain = fa.log_likelihood(S, fa.em_step(S, now)) - fa.log_likelihood(S, now)
    assert tolerance / 100 < gain < tolerance  # and at the first such step
    few = fa.fit(dataclasses.replace(cfg, max_steps=3), data(), KEY, start=start())
    later = fa.em_step(S, fa.em_step(S, fa.em_step(S, start())))
    np.testing.assert_allclose(few["params"]["W"], later.W, rtol=1e-5)


def test_a_singular_covariance_is_named_or_has_the_floor():
    x = data()
    x[:, 3] = 2.0
    with pytest.raises(ValueError, match="dimension 3.*singular.*covariance_floor"):
        fa.fit(CFG, x, KEY)
    variables = fa.fit(dataclasses.replace(CFG, covariance_floor=1e-3), x, KEY)
    assert float(variables["params"]["variances"][3]) == pytest.approx(1e-3)
    assert np.isfinite(fa.log_prob(CFG, variables, x)).all()


def test_the_default_fits_images():
    x = np.random.default_rng(0).uniform(-1, 1, (60, 4, 4, 1)).astype(np.float32)
    x[:, 0] = -1  # pixels that are constant
    cfg = fa.Config.for_task(Task((4, 4, 1)))
    variables = fa.fit(cfg, x, KEY)
    assert np.isfinite(fa.log_prob(cfg, variables, x)).all()
    assert fa.sample(cfg, variables, KEY, 3).shape == (3, 4, 4, 1)


@pytest.mark.parametrize(
    "change", [dict(latent_dim=6), dict(latent_dim=0), dict(shape=()), dict(covariance_floor=-1.0),
               dict(max_steps=0)]
)  # fmt: skip
def test_an_impossible_config_is_refused(change):
    with pytest.raises(ValueError, match="Config"):
        dataclasses.replace(CFG, **change)


def test_bad_data_is_refused():
    with pytest.raises(ValueError, match="Config.shape"):
        fa.fit(CFG, np.zeros((4, 3), np.float32), KEY)
    with pytest.raises(ValueError, match="not finite"):
        fa.fit(CFG, np.full((9, 6), np.nan, np.float32), KEY)
    with pytest.raises(ValueError, match="2 rows; latent_dim = 2 needs at least 3"):
        fa.fit(CFG, np.zeros((2, 6), np.float32), KEY)
