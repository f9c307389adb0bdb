"""The linear denoising autoencoder is the Wiener filter; masks of exactly the share asked for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.autoencoder import denoising
from tests.train_steps import falling, train

SIGMA = 0.8
LINEAR = denoising.Config(shape=(3,), latent_shape=(3,), noise="gaussian", noise_std=SIGMA)


def test_a_linear_one_is_the_wiener_filter():
    """W* = Σ(Σ + σ²I)⁻¹, Σ that of the batch.

    The noise leaves an error: 4,096 examples, forgotten over the last 500 steps or so of a falling
    rate, are 2e6 draws, so about 1e-3 of W; 1e-2 is asked for. Σ(Σ - σ²I)⁻¹, or σ in the place of
    σ², differ by 0.1 and more.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4096, 3)) @ np.array([[1.5, 0.4, 0], [0, 0.7, -0.3], [0, 0, 0.4]])
    x = np.float32(x - x.mean(0))
    state = train(denoising.method(LINEAR, falling(2000)), {"x": x}, 2000)
    p = {k: np.asarray(v, np.float64) for k, v in state.params["mlp"].items()}
    x64 = np.asarray(x, np.float64)
    S = x64.T @ x64 / len(x64)
    want = S @ np.linalg.inv(S + SIGMA**2 * np.eye(3))
    np.testing.assert_allclose(p["W1"] @ p["V1"], want.T, atol=1e-2)
    np.testing.assert_allclose(p["b1"] @ p["V1"] + p["c1"], 0, atol=1e-2)


def test_masking_takes_exactly_its_share_of_every_example():
    x = jnp.ones((50, 4, 5, 1))
    cfg = denoising.Config(shape=(4, 5, 1), channels=(), mask_fraction=0.3)
    got = np.asarray(denoising.corrupt(cfg, jax.random.key(0), x)).reshape(50, 20)
    assert set(np.unique(got)) == {-1.0, 1.0}  # black, as the paper's 0
    np.testing.assert_array_equal((got == -1).sum(1), 6)
    # Every pixel, and not the same for all: 50 · 0.3 = 15 ± 3.2 a pixel, within 4 deviations.
    assert np.all(np.abs((got == -1).sum(0) - 15) < 13)
    vectors = np.asarray(denoising.mask(jax.random.key(0), jnp.ones((9, 8)), 0.5))
    np.testing.assert_array_equal((vectors == 0).sum(1), 4)


def test_no_share_is_no_noise():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), jnp.float32)
    np.testing.assert_array_equal(denoising.mask(jax.random.key(0), x, 0.0), x)


def test_gaussian_noise_has_its_deviation():
    x = jnp.full((4000, 3), 2.0)
    got = np.float64(denoising.corrupt(LINEAR, jax.random.key(0), x)) - 2
    # 12,000 draws: the deviation is known to 0.65 %; 5 standard errors
    assert got.std() == pytest.approx(SIGMA, rel=0.033)
    assert abs(got.mean()) < 5 * SIGMA / np.sqrt(12_000)


def test_the_target_is_clean():
    """With everything lost but the bias, the best guess is the mean of the clean data."""
    x = np.random.default_rng(0).normal(size=(256, 4)).astype(np.float32) + [1, 2, 3, 4]
    x = x.astype(np.float32)
    cfg = denoising.Config(shape=(4,), latent_shape=(4,), mask_fraction=0.99)  # rounded: all four
    state = train(denoising.method(cfg, falling(1000)), {"x": x}, 1000)
    got = denoising.reconstruct(cfg, state.variables, np.zeros((1, 4), np.float32))
    np.testing.assert_allclose(got[0], x.mean(0), atol=1e-3)


def test_the_papers_layer():
    cfg = denoising.Config.paper()
    assert (cfg.tied, cfg.squash, cfg.activation, cfg.loss) == (
        True,
        True,
        "sigmoid",
        "cross-entropy",
    )
    assert cfg.noise == "masking"


@pytest.mark.parametrize(
    "change",
    [dict(noise="salt"), dict(mask_fraction=1.0), dict(mask_fraction=-0.1), dict(noise_std=-1)],
)
def test_an_impossible_config_is_refused(change):
    with pytest.raises(ValueError, match=f"Config.{next(iter(change))}"):
        dataclasses.replace(LINEAR, **change)
