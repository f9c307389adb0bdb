"""Each head is a distribution: it sums to one, and its draws are of it."""

import jax.numpy as jnp
import numpy as np
import pytest

from gengen.autoregressive import heads
from gengen.types import InputError

DRAW = np.random.default_rng(0)


def _eta(parts, num=6):
    return jnp.asarray(DRAW.normal(size=(num, parts)), jnp.float32)


@pytest.mark.parametrize(("name", "levels"), [("categorical", 256), ("categorical", 5),
                                              ("logistic", 256), ("bernoulli", 2)])  # fmt: skip
def test_all_levels_together_have_probability_one(name, levels):
    head = heads.head(name, levels, components=3)
    eta = _eta(head.parts)
    x = heads.value(jnp.arange(levels), levels)
    p = np.exp(np.float64(head.log_p(x[:, None], eta[None])))
    assert p.shape == (levels, len(eta))
    np.testing.assert_allclose(p.sum(0), 1, atol=1e-5)  # 256 float32 logs
    assert p.std() > 1e-4


def test_gaussian_mixture_is_a_density():
    head = heads.head("gaussian", 256, components=3)
    eta = _eta(head.parts)
    x = np.linspace(-40, 40, 400_001)  # means of 1, scales below e^3: nothing is left outside
    p = np.exp(np.float64(head.log_p(jnp.asarray(x, jnp.float32)[:, None], eta[None])))
    np.testing.assert_allclose(np.trapezoid(p, x, axis=0), 1, atol=1e-3)


def test_gaussian_mixture_by_hand():
    eta = np.array([0.3, -0.2, 0.5, -1.0, -0.7, 0.1])  # logits, means, log scales
    weights = np.exp(eta[:2]) / np.exp(eta[:2]).sum()
    scale, x = np.exp(eta[4:]), 0.4
    parts = weights * np.exp(-0.5 * ((x - eta[2:4]) / scale) ** 2) / scale / np.sqrt(2 * np.pi)
    got = heads.head("gaussian", 256, 2).log_p(jnp.float32(x), jnp.asarray(eta, jnp.float32))
    np.testing.assert_allclose(got, np.log(parts.sum()), rtol=1e-5)


@pytest.mark.parametrize("name", heads.NAMES)
def test_samples_have_the_distribution(name):
    """The share of draws up to a point is the CDF there."""
    head = heads.head(name, 16, components=3)
    eta, num = _eta(head.parts, 4), 20_000
    u = jnp.asarray(DRAW.uniform(size=(num, 4, 2)), jnp.float32)
    x = np.asarray(head.sample(u, jnp.broadcast_to(eta, (num, *eta.shape))))
    levels = {"categorical": 16, "bernoulli": 2, "logistic": 256}.get(name)
    grid = (
        np.linspace(-30, 30, 120_001) if levels is None
        else np.asarray(heads.value(jnp.arange(levels), levels))
    )  # fmt: skip
    p = np.exp(np.float64(head.log_p(jnp.asarray(grid, jnp.float32)[:, None], eta[None])))
    p *= 1 if levels else grid[1] - grid[0]
    for column in range(4):
        for point in (-0.9, -0.3, 0.05, 0.4):
            want = p[grid <= point + 1e-6, column].sum()
            found = np.mean(x[:, column] <= point + 1e-6)
            # 4.5 standard deviations, and the sum's error in the place of the integral
            assert abs(found - want) < 4.5 * 0.5 / np.sqrt(num) + 1e-3


def test_levels_and_their_values_are_inverse():
    for levels in (2, 7, 256):
        k = jnp.arange(levels)
        np.testing.assert_array_equal(heads.level(heads.value(k, levels), levels), k)


def test_another_name_is_refused():
    with pytest.raises(InputError, match="Config.head = 'poisson'; it must be one of bernoulli"):
        heads.head("poisson", 256, 5)
