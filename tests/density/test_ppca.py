"""PPCA against scikit-learn, against the density in float64, and EM against the closed form."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from scipy import stats
from sklearn.decomposition import PCA

from gengen.contract import Task
from gengen.density import ppca

NORMAL: Any = stats.multivariate_normal
CFG = ppca.Config(shape=(5,), latent_dim=2)
KEY = jax.random.key(0)


def data(num=400):
    rng = np.random.default_rng(0)
    W = rng.normal(size=(5, 2)) * [2.0, 0.7]
    x = rng.normal(size=(num, 2)) @ W.T + 0.3 * rng.normal(size=(num, 5)) + [1, 2, 3, 4, 5]
    return x.astype(np.float32)


def covariance(variables):
    params = variables["params"]
    W = np.asarray(params["W"], np.float64)
    return W @ W.T + float(params["variance"]) * np.eye(len(W))


def test_log_prob_is_scikit_learns_score():
    x = data()
    cfg = dataclasses.replace(CFG, ddof=1)  # scikit-learn's covariance
    got = ppca.log_prob(cfg, ppca.fit(cfg, x, KEY), x)
    # float32 |x-μ|²/σ² of 1000 or so, most of which cancels: 1000 · 6e-8 · a few
    np.testing.assert_allclose(got, PCA(2).fit(np.float64(x)).score_samples(x), atol=5e-4)


def test_log_prob_is_the_normal_density():
    x, variables = data(), ppca.fit(CFG, data(), KEY)
    mean = np.asarray(variables["params"]["mean"])
    want = NORMAL.logpdf(x, mean, covariance(variables))
    np.testing.assert_allclose(ppca.log_prob(CFG, variables, x), want, atol=5e-4)


def test_em_finds_the_closed_form():
    em = ppca.fit(dataclasses.replace(CFG, em_steps=3000), data(), KEY)
    closed = ppca.fit(CFG, data(), KEY)
    # W is unique up to a rotation of z: C is unique.
    np.testing.assert_allclose(covariance(em), covariance(closed), atol=1e-4)


def test_nothing_is_likelier():
    x, closed = data(), ppca.fit(CFG, data(), KEY)
    best = np.asarray(ppca.log_prob(CFG, closed, x), np.float64).mean()
    for seed in range(5):
        rng = np.random.default_rng(seed)
        near = jax.tree.map(lambda p, r=rng: p * (1 + 0.03 * r.normal(size=p.shape)), closed)
        assert np.mean(ppca.log_prob(CFG, near, x)) < best


def test_the_posterior_is_that_of_the_joint_gaussian():
    x, variables = data(8), ppca.fit(CFG, data(), KEY)
    params = variables["params"]
    W, d = np.asarray(params["W"], np.float64), x - np.asarray(params["mean"])
    want = d @ np.linalg.solve(covariance(variables), W)  # cov(z, x) C⁻¹ (x - μ)
    np.testing.assert_allclose(ppca.encode(CFG, variables, x), want, atol=1e-4)
    decoded = want @ W.T + np.asarray(params["mean"])
    np.testing.assert_allclose(ppca.reconstruct(CFG, variables, x), decoded, atol=1e-4)


def conditional(variables, x, known):
    """Mean and covariance of the missing entries of x, of the joint Gaussian in float64."""
    C, mean = covariance(variables), np.asarray(variables["params"]["mean"], np.float64)
    A = C[np.ix_(~known, known)] @ np.linalg.inv(C[np.ix_(known, known)])
    cov = C[np.ix_(~known, ~known)] - A @ C[np.ix_(known, ~known)]
    return mean[~known] + A @ (np.float64(x) - mean)[known], cov


def test_imputation_is_the_conditional_gaussian():
    variables, x = ppca.fit(CFG, data(), KEY), data(4)
    masks = np.array([[1, 0, 1, 1, 0], [0, 1, 0, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 0]], bool)
    given = np.where(masks, x, 7)  # which nobody may look at
    mean = np.asarray(ppca.impute(CFG, variables, given, masks, KEY, mean=True))
    for row, known, got in zip(x, masks, mean, strict=True):
        np.testing.assert_allclose(got[~known], conditional(variables, row, known)[0], atol=1e-4)
        np.testing.assert_array_equal(got[known], row[known])

    num, known = 20_000, masks[0]
    drawn = np.asarray(ppca.impute(CFG, variables, np.tile(given[:1], (num, 1)), known, KEY))
    np.testing.assert_array_equal(drawn[:, known], np.tile(x[:1, known], (num, 1)))
    want, cov = conditional(variables, x[0], known)
    # 5 standard errors: a deviation / √num of the mean, √(2/num) of a variance.
    scale = cov.diagonal().max()
    np.testing.assert_allclose(drawn[:, ~known].mean(0), want, atol=5 * (scale / num) ** 0.5)
    found = np.cov(drawn[:, ~known].T.astype(np.float64))
    np.testing.assert_allclose(found, cov, atol=5 * (2 / num) ** 0.5 * scale)


def test_imputed_images_are_clipped():
    cfg = ppca.Config(shape=(1, 5, 1), latent_dim=2)
    variables = ppca.fit(cfg, data().reshape(-1, 1, 5, 1), KEY)
    x, mask = data(8).reshape(-1, 1, 5, 1), np.array([1, 1, 0, 0, 0], bool)[:, None]
    out = np.asarray(ppca.impute(cfg, variables, x, mask, KEY))
    assert out.shape == x.shape and np.abs(out[:, :, 2:]).max() <= 1
    np.testing.assert_array_equal(out[:, :, :2], x[:, :, :2])


def test_samples_have_the_fitted_moments():
    variables = ppca.fit(CFG, data(), KEY)
    x = np.asarray(ppca.sample(CFG, variables, KEY, 20_000), np.float64)
    # 5 standard errors, about √(2/20000) of a variance and √(1/20000) of a deviation.
    scale, mean = covariance(variables).max(), variables["params"]["mean"]
    np.testing.assert_allclose(x.mean(0), mean, atol=5 * (scale / 20_000) ** 0.5)
    np.testing.assert_allclose(np.cov(x.T), covariance(variables), atol=0.05 * scale)
    # Across the subspace there is the noise alone.
    W, variance = np.asarray(variables["params"]["W"]), variables["params"]["variance"]
    across = (x - mean) @ np.linalg.svd(W)[0][:, W.shape[1] :]
    np.testing.assert_allclose(across.var(0), variance, rtol=5 * (2 / 20_000) ** 0.5)


def test_images_are_vectors_too():
    images = np.random.default_rng(0).uniform(-1, 1, (30, 2, 2, 1)).astype(np.float32)
    cfg = ppca.Config(shape=(2, 2, 1), latent_dim=2)
    variables = ppca.fit(cfg, images, KEY)
    assert ppca.sample(cfg, variables, KEY, 3).shape == (3, 2, 2, 1)
    assert ppca.log_prob(cfg, variables, images).shape == (30,)


@pytest.mark.parametrize(
    "change", [dict(latent_dim=5), dict(latent_dim=0), dict(shape=()), dict(ddof=2)]
)
def test_an_impossible_config_is_refused(change):
    with pytest.raises(ValueError, match="Config"):
        dataclasses.replace(CFG, **change)


def test_bad_data_is_refused():
    with pytest.raises(ValueError, match="Config.shape"):
        ppca.fit(CFG, np.zeros((4, 3), np.float32), KEY)
    with pytest.raises(ValueError, match="finite"):
        ppca.fit(CFG, np.full((9, 5), np.nan, np.float32), KEY)
    with pytest.raises(ValueError, match="more than latent_dim"):
        ppca.fit(CFG, np.zeros((2, 5), np.float32), KEY)


@pytest.mark.parametrize(("shape", "latent_dim"), [((2,), 1), ((8, 8, 1), 8), ((28, 28, 1), 50)])
def test_the_default_latent_dimension_depends_on_the_data(shape, latent_dim):
    assert ppca.Config.for_task(Task(shape)) == ppca.Config(shape, latent_dim)
