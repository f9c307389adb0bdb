"""Densities against SciPy in float64, draws against their own densities."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as ss

from gengen import distributions as dist

NORMAL: Any = ss.multivariate_normal
RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 4, 2))
MEAN, LOG_SCALE = RNG.normal(size=(2, 3, 4, 2))
ETA = jnp.float32(np.concatenate([MEAN, LOG_SCALE], axis=-1))


def rows(x):
    return x.reshape(len(x), -1).sum(1)


@pytest.mark.parametrize("name, law", [("gaussian", ss.norm), ("laplace", ss.laplace)])
def test_densities_are_scipys(name, law):
    got = dist.likelihood(name).log_prob(jnp.float32(X), ETA)
    want = rows(law(MEAN, np.exp(LOG_SCALE)).logpdf(X))
    np.testing.assert_allclose(got, want, rtol=1e-5)  # 8 float32 terms


def test_bernoulli_is_scipys_of_the_binary_image():
    b = RNG.integers(0, 2, X.shape)
    got = dist.likelihood("bernoulli").log_prob(jnp.float32(2 * b - 1), jnp.float32(MEAN))
    np.testing.assert_allclose(
        got, rows(ss.bernoulli.logpmf(b, 1 / (1 + np.exp(-MEAN)))), rtol=1e-5
    )


def test_the_discretised_logistic_is_the_probability_of_each_bin():
    """All 256 values against differences of the distribution function; their sum is 1."""
    x = np.arange(256) / 127.5 - 1
    mean, s = 0.3, 0.05
    law = ss.logistic(mean, s)
    edges = np.concatenate([[-np.inf], (x[:-1] + x[1:]) / 2, [np.inf]])
    # Above the mean by the survival function: differences near 1 lose their digits in float64 too.
    want = np.where(
        edges[:-1] > mean, law.sf(edges[:-1]) - law.sf(edges[1:]), np.diff(law.cdf(edges))
    )
    eta = jnp.tile(jnp.float32([mean, np.log(s)]), (256, 1))
    got = np.exp(dist.likelihood("logistic").log_prob(jnp.float32(x)[:, None], eta))
    # float32 x has an error of 6e-8 / s = 1e-6; times the log-density's slope of 1.
    np.testing.assert_allclose(got, want, rtol=2e-5)
    assert got.sum() == pytest.approx(1, abs=1e-5)


def test_the_discretised_logistic_is_finite_far_out():
    eta = jnp.float32([[5.0, np.log(1e-3)], [0.0, -12.0]])  # 5,000 scales away; a scale of 6e-6
    f = lambda eta: dist.likelihood("logistic").log_prob(jnp.zeros((2, 1)), eta)  # noqa: E731
    assert np.isfinite(f(eta)).all()
    assert np.isfinite(jax.grad(lambda eta: f(eta).sum())(eta)).all()


@pytest.mark.parametrize("name", list(dist.LIKELIHOODS))
def test_draws_have_the_mean_and_the_entropy_of_the_density(name):
    """E ln p of draws is -H, known in closed form; 4 standard errors of 20,000 draws."""
    kind, num = dist.likelihood(name), 20_000
    s = 0.05
    eta = jnp.tile(jnp.float32([[0.3, np.log(s)][: kind.parts]]), (num, 1))
    x = np.float64(kind.sample(jax.random.key(0), eta))
    assert x.mean() == pytest.approx(float(kind.mean(eta[:1])[0, 0]), abs=4 * x.std() / num**0.5)
    entropy = {
        "gaussian": ss.norm(0, s).entropy(),
        "laplace": ss.laplace(0, s).entropy(),
        "bernoulli": ss.bernoulli(1 / (1 + np.exp(-0.3))).entropy(),
        # the bins are narrow, and few draws leave [-1, 1]: the density's entropy, less ln(bin)
        "logistic": ss.logistic(0, s).entropy() - np.log(2 / 255),
    }[name]
    log_p = np.float64(kind.log_prob(jnp.float32(x), eta))
    # 0.02: bins are 0.16 scales wide, and a mean over a bin is not the middle.
    assert -log_p.mean() == pytest.approx(entropy, abs=4 * log_p.std() / num**0.5 + 0.02)


def normal(full: bool, num: int = 2):
    rng = np.random.default_rng(1)
    mean, log_std = rng.normal(size=(num, 3)), 0.5 * rng.normal(size=(num, 3))
    lower = np.tril(rng.normal(size=(num, 3, 3)), -1)
    q = dist.Normal(jnp.float32(mean), jnp.float32(log_std), jnp.float32(lower) if full else None)
    factors = np.stack([np.diag(np.exp(s)) for s in log_std]) + (lower if full else 0)
    return q, mean, factors @ factors.swapaxes(1, 2)


@pytest.mark.parametrize("full", [False, True])
def test_normal_density_is_scipys(full):
    q, mean, covariance = normal(full)
    z = np.random.default_rng(2).normal(size=(2, 3))
    want = [NORMAL.logpdf(x, m, c) for m, c, x in zip(mean, covariance, z, strict=True)]
    np.testing.assert_allclose(q.log_prob(jnp.float32(z)), want, rtol=1e-4)


@pytest.mark.parametrize("full", [False, True])
def test_kl_is_the_closed_form_and_the_monte_carlo_mean(full):
    q, mean, covariance = normal(full)
    want = [
        0.5 * (np.trace(c) + m @ m - 3 - np.linalg.slogdet(c)[1])
        for m, c in zip(mean, covariance, strict=True)
    ]
    np.testing.assert_allclose(q.kl_from_standard(), want, rtol=1e-5)
    num = 100_000
    for i in range(2):
        one = jax.tree.map(lambda a, i=i: jnp.repeat(a[i : i + 1], num, 0), q)
        z = one.sample(jax.random.normal(jax.random.key(i), (num, 3)))
        ratio = np.float64(one.log_prob(z) - dist.standard_normal(z))
        assert ratio.mean() == pytest.approx(want[i], abs=4 * ratio.std() / num**0.5)
        # and the draws have the covariance LLᵀ: with σ² for σ they would not
        error = np.abs(np.cov(np.asarray(z).T) - covariance[i]).max()
        assert error < 0.03 * np.abs(covariance[i]).max()  # 6 standard errors of a variance


def test_petals_are_a_density_and_its_draws():
    mixture = dist.petals()
    side = np.linspace(-5, 5, 201)
    points = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    mass = (
        np.exp(np.float64(mixture.log_prob(jnp.float32(points)))).sum() * (side[1] - side[0]) ** 2
    )
    assert mass == pytest.approx(1, abs=2e-3)  # a grid of a quarter of the smallest deviation
    z = np.float64(mixture.sample(jax.random.key(0), 20_000))
    assert np.abs(z.mean(0)).max() < 0.05
    # E r² = radius² + along² + across²
    assert (z**2).sum(1).mean() == pytest.approx(4 + 0.49 + 0.04, rel=0.03)
    parts = np.asarray(mixture.log_parts(mixture.means)).argmax(1)
    np.testing.assert_array_equal(parts, np.arange(10))
    factor = np.asarray(mixture.factors[3], np.float64)
    want = NORMAL.logpdf([1, 1], np.asarray(mixture.means[3]), factor @ factor.T)
    got = mixture.log_parts(jnp.ones((1, 2)))[0, 3] + np.log(10)
    assert float(got) == pytest.approx(want, rel=1e-4)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="gaussian, laplace"):
        dist.likelihood("poisson")
    with pytest.raises(ValueError, match="num = 0"):
        dist.petals(0)
