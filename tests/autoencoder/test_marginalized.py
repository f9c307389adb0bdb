"""The closed form against the average over many damaged copies, and against a loop over entries."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from gengen.autoencoder import marginalized

CFG = marginalized.Config(corruption_probability=0.3)


def data(num=60, dims=5, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(num, dims)) @ rng.normal(size=(dims, dims)) + 0.5).astype(np.float32)


def test_the_expectations_entry_by_entry():
    """All 2^D masks of one example, each with its probability: no formula in between."""
    h, p = np.asarray(data(1, 4), np.float64), 0.3
    P, Q = np.zeros((5, 5)), np.zeros((5, 5))
    wide = np.append(h[0], 1)
    for code in range(16):
        kept = np.array([code >> i & 1 for i in range(4)])
        damaged = np.append(h[0] * kept, 1)
        weight = np.prod(np.where(kept, 1 - p, p))
        P += weight * np.outer(wide, damaged)
        Q += weight * np.outer(damaged, damaged)
    got_P, got_Q = marginalized.expectations(h, p)
    np.testing.assert_allclose(got_P, P, atol=1e-12)
    np.testing.assert_allclose(got_Q, Q, atol=1e-12)


def test_w_minimises_the_expected_error():
    """The expected squared error over all masks has no gradient at W: E[P] = W (E[Q] + λI)."""
    x = data()
    W = np.float64(marginalized.fit(CFG, x)["params"]["W"][0])
    P, Q = marginalized.expectations(np.asarray(x, np.float64), CFG.corruption_probability)
    # W is rounded to float32 (6e-8), and Q's entries are of order 1e2.
    np.testing.assert_allclose(W @ (Q + CFG.ridge * np.eye(6)), P[:-1], atol=1e-4)


def test_the_average_over_m_copies_tends_to_it_like_one_over_root_m():
    """Slope of ln error against ln m over m = 1 ... 1000, each the mean of 8 seeds: -½ ± 0.08.

    The mean of 8 errors has a relative deviation of about 0.2/√8 = 0.07 (errors of 30 numbers vary
    by a fifth); over ln 1000 = 6.9 and seven sizes the slope's is about 0.07/(2.3 √7) = 0.012; the
    bias of an inverse at small m, of order 1/m, adds some.
    """
    x, exact = data(200), np.float64(marginalized.fit(CFG, data(200))["params"]["W"])
    sizes = [1, 3, 10, 30, 100, 300, 1000]
    errors = [
        np.mean([
            np.linalg.norm(
                np.float64(marginalized.fit_copies(CFG, x, m, seed)["params"]["W"]) - exact
            )
            for seed in range(8)
        ])
        for m in sizes
    ]  # fmt: skip
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.08), errors


def test_without_noise_the_input_is_given_back():
    x = data()
    params = marginalized.fit(dataclasses.replace(CFG, corruption_probability=0.0), x)
    np.testing.assert_allclose(marginalized.reconstruct(CFG, params, x), x, atol=1e-4)


def test_a_stack_is_layers_of_layers():
    x = data()
    two = marginalized.fit(dataclasses.replace(CFG, num_layers=2), x)
    one = marginalized.fit(CFG, x)
    np.testing.assert_array_equal(two["params"]["W"][0], one["params"]["W"][0])
    W = np.asarray(one["params"]["W"][0], np.float64)
    h = np.tanh(np.asarray(x, np.float64) @ W[:, :-1].T + W[:, -1])
    above = marginalized.fit(CFG, h.astype(np.float32))
    # h was rounded to float32 between the layers here, and E[Q]'s inverse magnifies that.
    np.testing.assert_allclose(two["params"]["W"][1], above["params"]["W"][0], atol=1e-4)
    features = np.asarray(marginalized.transform(CFG, two, x))
    assert features.shape == (60, 15)
    np.testing.assert_array_equal(features[:, :5], x)
    np.testing.assert_allclose(features[:, 5:10], h, atol=1e-5)


def test_images_count_from_black():
    """Always black pixels are always 0: E[Q] is singular but for the ridge."""
    x = np.random.default_rng(0).uniform(-1, 1, (40, 3, 3, 1)).astype(np.float32)
    x[:, 0] = -1
    params = marginalized.fit(CFG, x)
    assert np.isfinite(params["params"]["W"]).all()
    assert marginalized.transform(CFG, params, x).shape == (40, 18)
    assert marginalized.reconstruct(CFG, params, x).shape == x.shape
    np.testing.assert_allclose(marginalized.reconstruct(CFG, params, x)[:, 0], -1, atol=1e-4)
    with pytest.raises(ValueError, match="Config.ridge = 0"):
        marginalized.fit(dataclasses.replace(CFG, ridge=0.0), x)


def test_bad_data_is_refused():
    with pytest.raises(ValueError, match="Config.shape"):
        marginalized.fit(dataclasses.replace(CFG, shape=(4,)), data())
    with pytest.raises(ValueError, match="NaN"):
        marginalized.fit(CFG, np.full((3, 2), np.nan, np.float32))
    with pytest.raises(ValueError, match="empty"):
        marginalized.fit(CFG, np.zeros((0, 2), np.float32))
    with pytest.raises(ValueError, match="5 numbers"):
        marginalized.transform(CFG, marginalized.fit(CFG, data()), jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="m = 0"):
        marginalized.fit_copies(CFG, data(), 0)


@pytest.mark.parametrize(
    "change",
    [dict(corruption_probability=1.0), dict(num_layers=0), dict(ridge=-1), dict(shape=(2, 2))],
)
def test_an_impossible_config_is_refused(change):
    with pytest.raises(ValueError, match=f"Config.{next(iter(change))}"):
        dataclasses.replace(CFG, **change)
