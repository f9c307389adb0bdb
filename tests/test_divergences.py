"""Divergences against closed forms, Monte Carlo, SciPy, and inequalities between them."""

from math import inf, log, pi

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from gengen import divergences as div

RNG = np.random.default_rng(0)
GRID = np.linspace(-12, 12, 4801)
DX = GRID[1] - GRID[0]


def normal(mean, std):
    return np.exp(-0.5 * ((GRID - mean) / std) ** 2) / (std * np.sqrt(2 * pi))


def covariance(dims, seed):
    A = np.random.default_rng(seed).normal(size=(dims, dims))
    return A @ A.T + 0.3 * np.eye(dims)


@st.composite
def laws(draw, num=2, size=5):
    """Probabilities of 5 events, some of them 0, but none sums to 0."""
    weights = arrays(float, size, elements=st.sampled_from([0, 1e-3, 0.1, 0.5, 1, 2]))
    found = [draw(weights.filter(lambda w: w.sum() > 0)) for _ in range(num)]
    return [w / w.sum() for w in found]


# --- probabilities -------------------------------------------------------------------------------


def test_kl_on_a_grid_is_that_of_gaussians():
    """The sum over a grid of smooth functions that vanish at its ends is exact to rounding."""
    want = div.kl_normal([0.5], [[1.0]], [-0.3], [[1.7**2]])
    assert div.kl(normal(0.5, 1), normal(-0.3, 1.7), DX) == pytest.approx(want, abs=1e-9)


@settings(deadline=None)
@given(laws())
def test_inequalities_between_divergences(both):
    """KL ≥ 0 and is 0 iff p = q; Pinsker TV² ≤ KL/2; H² ≤ TV ≤ √(2H²); JS ≤ ln 2, symmetric."""
    p, q = both
    kl, tv, h2 = div.kl(p, q), div.total_variation(p, q), div.squared_hellinger(p, q)
    same = np.allclose(p, q, atol=1e-12, rtol=0)
    assert (kl > 1e-15) == (not same)
    assert tv**2 <= kl / 2 + 1e-12
    assert h2 - 1e-12 <= tv <= np.sqrt(2 * h2) + 1e-7
    assert -1e-12 <= div.js(p, q) <= log(2) + 1e-12
    assert div.js(p, q) == pytest.approx(div.js(q, p), abs=1e-12)
    assert kl <= np.log1p(div.pearson_chi2(p, q)) + 1e-12
    assert div.js(p, q) >= 2 * 0.25 * tv**2 - 1e-12  # Pinsker twice: each half is TV/2 from m


@settings(deadline=None)
@given(laws())
def test_all_are_f_divergences(both):
    p, q = both
    xlogx = lambda t: t * np.log(np.where(t > 0, t, 1))  # noqa: E731
    for f, slope, value in (
        (xlogx, inf, div.kl(p, q)),
        (lambda t: (t - 1) ** 2, inf, div.pearson_chi2(p, q)),
        (lambda t: np.abs(t - 1) / 2, 0.5, div.total_variation(p, q)),
        (lambda t: (np.sqrt(t) - 1) ** 2 / 2, 0.5, div.squared_hellinger(p, q)),
        (lambda t: (xlogx(t) - (1 + t) * np.log((1 + t) / 2)) / 2, log(2) / 2, div.js(p, q)),
    ):
        assert div.f_divergence(f, p, q, slope=slope) == pytest.approx(value, abs=1e-12)


def test_laws_apart():
    """Disjoint supports: KL and χ² are infinite, JS is ln 2, TV and H² are 1, whatever the gap."""
    p, q = [0.5, 0.5, 0, 0], [0, 0, 0.25, 0.75]
    assert div.kl(p, q) == div.pearson_chi2(p, q) == inf
    assert div.js(p, q) == pytest.approx(log(2))
    assert div.total_variation(p, q) == div.squared_hellinger(p, q) == 1
    assert div.kl([0, 1], [0.5, 0.5]) == pytest.approx(log(2))  # q alone has mass: finite


def test_values_by_hand():
    p, q = [0.5, 0.5], [0.9, 0.1]
    assert div.kl(p, q) == pytest.approx(0.5 * log(5 / 9) + 0.5 * log(5))
    assert div.pearson_chi2(p, q) == pytest.approx(0.16 / 0.9 + 0.16 / 0.1)
    assert div.total_variation(p, q) == pytest.approx(0.4)
    assert div.squared_hellinger(p, q) == pytest.approx(1 - np.sqrt(0.45) - np.sqrt(0.05))


def test_self_information():
    """Known values, the mean is the entropy, and independent events add up."""
    got = div.self_information([0.5, 0.25, 0.25, 0])
    np.testing.assert_allclose(got, [log(2), log(4), log(4), inf])
    rng = np.random.default_rng(7)
    p, q = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(5))
    assert p @ div.self_information(p) == pytest.approx(div.entropy(p))
    want = div.self_information(p)[:, None] + div.self_information(q)
    np.testing.assert_allclose(div.self_information(np.outer(p, q)), want)
    std = 0.1  # a density above 1, whose self-information is negative at its mode
    want = 0.5 * (GRID / std) ** 2 + 0.5 * log(2 * pi * std**2)
    near = np.abs(GRID) < 2
    got = div.self_information(normal(0, std), DX)
    np.testing.assert_allclose(got[near], want[near], rtol=1e-9)


def test_entropy_and_information():
    assert div.entropy(np.full(8, 1 / 8)) == pytest.approx(log(8))
    assert div.entropy([1, 0]) == 0
    assert div.entropy(normal(0, 2), DX) == pytest.approx(0.5 * log(2 * pi * np.e * 4), abs=1e-7)
    joint = RNG.dirichlet(np.ones(12)).reshape(3, 4)
    want = div.entropy(joint.sum(0)) + div.entropy(joint.sum(1)) - div.entropy(joint)
    assert div.information(joint) == pytest.approx(want)
    assert div.information(np.outer([0.2, 0.8], [0.5, 0.3, 0.2])) == pytest.approx(0, abs=1e-15)
    assert div.information(np.eye(4) / 4) == pytest.approx(log(4))


# --- Gaussians -----------------------------------------------------------------------------------


def test_kl_of_gaussians_is_its_monte_carlo_mean():
    """1e6 draws; 5 standard errors of their mean, about 0.005 nats."""
    mean0, cov0, mean1, cov1 = RNG.normal(size=3), covariance(3, 1), RNG.normal(size=3), None
    cov1 = covariance(3, 2)
    z = np.random.default_rng(3).multivariate_normal(mean0, cov0, 1_000_000)
    of = lambda m, c: stats.multivariate_normal(m, c).logpdf(z)  # noqa: E731
    ratio = of(mean0, cov0) - of(mean1, cov1)
    got = div.kl_normal(mean0, cov0, mean1, cov1)
    assert got == pytest.approx(ratio.mean(), abs=5 * ratio.std() / 1000)


def test_kl_from_the_standard_normal():
    mean, variance = np.array([0.3, -1.2, 2.0]), np.array([0.5, 1.0, 3.0])
    want = -0.5 * np.sum(1 + np.log(variance) - mean**2 - variance)
    got = div.kl_normal(mean, np.diag(variance), np.zeros(3), np.eye(3))
    assert got == pytest.approx(want, rel=1e-12)
    assert div.kl_normal(mean, np.diag(variance), mean, np.diag(variance)) == pytest.approx(0)
    assert div.kl_normal([0, 0], np.diag([1.0, 0]), [0, 0], np.eye(2)) == inf


def test_w2_of_gaussians():
    """Where covariances commute, ‖m-m'‖² + ‖σ-σ'‖²."""
    got = div.wasserstein2_normal([1, 2], np.diag([1.0, 4]), [0, 0], np.diag([9.0, 1]))
    assert got == pytest.approx(np.sqrt(5 + 4 + 1))


# --- transport -----------------------------------------------------------------------------------


def test_w1_of_shifted_gaussians():
    """|a - b|; of 20,000 samples each, within 5 standard errors of a mean's difference."""
    x, y = RNG.normal(0.3, 2, 20_000), RNG.normal(1.5, 2, 20_000)
    assert div.wasserstein1(x, y) == pytest.approx(1.2, abs=5 * 2 * np.sqrt(2 / 20_000))
    assert div.wasserstein1(x, x + 1.2) == pytest.approx(1.2, rel=1e-9)  # the sample's, exactly


@pytest.mark.parametrize("sizes", [(50, 50), (30, 71), (1, 9)])
def test_w1_is_scipys(sizes):
    x, y = RNG.normal(size=sizes[0]), RNG.gamma(2, size=sizes[1]).round(1)
    assert div.wasserstein1(x, y) == pytest.approx(stats.wasserstein_distance(x, y), rel=1e-10)


def test_primal_is_dual_is_w1():
    """The linear programme's two sides, and the integral of |F - G|, on points of the line."""
    points = np.sort(RNG.normal(size=7))
    p, q = RNG.dirichlet(np.ones(7)), RNG.dirichlet(np.ones(7))
    cost = np.abs(points[:, None] - points)
    primal, plan = div.transport(p, q, cost)
    dual, f, g = div.kantorovich(p, q, cost)
    want = stats.wasserstein_distance(points, points, p, q)
    assert primal == pytest.approx(want, abs=1e-9) and dual == pytest.approx(want, abs=1e-9)
    np.testing.assert_allclose(plan.sum(1), p, atol=1e-9)
    np.testing.assert_allclose(plan.sum(0), q, atol=1e-9)
    assert plan.min() > -1e-12 and np.all(f[:, None] + g <= cost + 1e-9)
    assert np.sum(plan * cost) == pytest.approx(primal)


def test_transport_between_sets_of_two_sizes():
    cost = RNG.uniform(size=(3, 5))
    p, q = RNG.dirichlet(np.ones(3)), RNG.dirichlet(np.ones(5))
    primal, plan = div.transport(p, q, cost)
    assert plan.shape == (3, 5)
    assert primal == pytest.approx(div.kantorovich(p, q, cost)[0], abs=1e-9)


def test_lines_apart():
    """Two parallel lines at distance θ: W₁ tells the distance, JS and KL do not."""
    for theta in (0.1, 1.0):
        z = np.linspace(0, 1, 6)
        a, b = np.stack([0 * z, z], 1), np.stack([0 * z + theta, z], 1)
        cost = np.sqrt(((a[:, None] - b) ** 2).sum(-1))
        assert div.transport(np.full(6, 1 / 6), np.full(6, 1 / 6), cost)[0] == pytest.approx(theta)


# --- MMD -----------------------------------------------------------------------------------------


def test_mmd_by_hand():
    x, y = np.array([[0.0], [1.0]]), np.array([[0.0], [2.0], [3.0]])
    k = lambda a, b: np.exp(-((a - b) ** 2) / 2)  # noqa: E731
    within_x, within_y = k(0, 1), (k(0, 2) + k(0, 3) + k(2, 3)) / 3
    across = (k(0, 0) + k(0, 2) + k(0, 3) + k(1, 0) + k(1, 2) + k(1, 3)) / 6
    assert div.mmd(x, y, 1.0) == pytest.approx(within_x + within_y - 2 * across)
    biased = (2 + 2 * within_x) / 4 + (3 + 6 * within_y) / 9 - 2 * across
    assert div.mmd(x, y, 1.0, biased=True) == pytest.approx(biased)
    # The median of ten distances: 0 1 1 1 1 2 2 2 3 3
    assert div.mmd(x, y) == pytest.approx(div.mmd(x, y, np.sqrt((1**2 + 2**2) / 2)))


def test_mmd_of_gaussians():
    """E k between N(a, 1) and N(b, 1), h = 1: exp(-(a-b)²/6)/√3; 5 deviations of about 2/√1000."""
    x, y = RNG.normal(0, 1, (1000, 1)), RNG.normal(2, 1, (1000, 1))
    want = 2 * (1 - np.exp(-4 / 6)) / np.sqrt(3)
    assert div.mmd(x, y, 1.0) == pytest.approx(want, abs=0.1)
    sets = np.random.default_rng(1).normal(size=(40, 2, 100, 2))
    same = [div.mmd(a, b) for a, b in sets]
    assert abs(np.mean(same)) < 5 * np.std(same) / np.sqrt(40)  # unbiased


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: div.kl([0.5, 0.6], [0.5, 0.5]), "p sums to 1.1"),
        (lambda: div.kl([1.0], [0.5, 0.5]), r"p has shape \(1,\) and q \(2,\)"),
        (lambda: div.js([0.5, 0.5], [1.5, -0.5]), "q has shape"),
        (lambda: div.entropy([np.nan, 1]), "NaN"),
        (lambda: div.entropy([1.0], dx=0), "dx = 0"),
        (lambda: div.information([0.5, 0.5]), "table"),
        (lambda: div.self_information([0.5, 0.1]), "sums to 0.6"),
        (lambda: div.kl_normal([0], np.eye(2), [0], np.eye(1)), "mean0 has shape"),
        (lambda: div.kl_normal([0], [[1]], [0, 0], np.eye(2)), "make them equal"),
        (lambda: div.kl_normal([0], [[1]], [0], [[0]]), "positive definite"),
        (lambda: div.kl_normal([0, 0], [[1, 1], [0, 1]], [0, 0], np.eye(2)), "symmetric"),
        (lambda: div.kl_normal([np.inf], [[1]], [0], [[1]]), "infinity"),
        (lambda: div.wasserstein1(np.zeros((2, 2)), np.zeros(2)), "on the line"),
        (lambda: div.transport([1.0], [0.5, 0.5], np.zeros((2, 2))), r"\[K, L\]"),
        (lambda: div.transport([1.0], [1.0], [[np.inf]]), "cost"),
        (lambda: div.mmd(np.zeros((1, 2)), np.zeros((3, 2))), "at least 2"),
        (lambda: div.mmd(np.zeros((2, 2)), np.zeros((3, 2)), -1.0), "bandwidth = -1"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
