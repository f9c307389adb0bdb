"""A game that fails says so, with what was measured; one that does not, does not."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from gengen import loop
from gengen.data import Dataset, load
from gengen.gan import diagnostics, gan, lsgan, wgan, wgan_gp

DRAW = np.random.default_rng(0)
WELL = {
    "discriminator_gradient_signal": 0.4, "generator_gradient_norm": 0.1, "spread": 0.9,
    "real_logit": 1.0, "fake_logit": -1.0,
}  # fmt: skip


def test_the_signal_of_the_cross_entropy_is_how_unsure_d_is():
    on_real, on_fake = DRAW.normal(size=(2, 64))
    D = 1 / (1 + np.exp(-np.stack([on_real, on_fake])))
    wanted = ((1 - D[0]).mean() + D[1].mean()) / 2
    found = diagnostics.gradient_signal(gan.cross_entropy, *map(jnp.float32, (on_real, on_fake)))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    np.testing.assert_allclose(
        diagnostics.gradient_signal(gan.cross_entropy, jnp.zeros(8), jnp.zeros(8)), 0.5, rtol=1e-6
    )


@pytest.mark.parametrize("size", [1.0, 1e3])
def test_the_signal_of_a_wasserstein_critic_is_one(size):
    on_real, on_fake = map(jnp.float32, size * DRAW.normal(size=(2, 64)))
    found = diagnostics.gradient_signal(wgan_gp.wasserstein().discriminator, on_real, on_fake)
    np.testing.assert_allclose(found, 1, rtol=1e-5)


def test_the_signal_of_least_squares_is_the_distance_from_the_targets():
    """½(φ - 1)² and ½φ²: |φ - 1| and |φ|."""
    on_real, on_fake = map(jnp.float32, DRAW.normal(size=(2, 64)))
    wanted = (np.abs(on_real - 1).mean() + np.abs(on_fake).mean()) / 2
    found = diagnostics.gradient_signal(lsgan.least_squares().discriminator, on_real, on_fake)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_the_spread_is_numpys():
    real, fake = DRAW.normal(size=(2, 50, 3, 2))
    fake *= 0.2
    wanted = np.sqrt(fake.var(0).sum() / real.var(0).sum())
    found = diagnostics.spread(jnp.float32(real), jnp.float32(fake))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert diagnostics.spread(jnp.float32(real), jnp.full((50, 3, 2), 0.7)) < 1e-6  # all are one
    assert diagnostics.spread(jnp.ones((4, 2)), jnp.float32(fake[:4, 0])) == 1  # nothing to compare


@pytest.mark.parametrize(
    "change, words",
    [
        (
            {"discriminator_gradient_signal": 0.004},
            "saturated (discriminator_gradient_signal = 0.004",
        ),
        ({"generator_gradient_norm": 2e-9}, "generator_gradient_norm = 2e-09"),
        ({"spread": 0.012}, "collapsed (spread = 0.012"),
        ({"fake_logit": -2.5e5}, "explode (fake_logit = -2.5e+05"),
    ],
)
def test_each_sign_is_a_sentence_with_its_number(change, words):
    assert diagnostics.warn(WELL) == [] and diagnostics.warn({}) == []
    (found,) = diagnostics.warn(WELL | change)
    assert words in found and "\n" not in found


def test_warnings_name_the_critic():
    (found,) = diagnostics.warn({"critic_gradient_signal": 0.004}, "critic")
    assert found.startswith("the critic is saturated (critic_gradient_signal = 0.004")


def trained(cfg, data, out, steps, **settings) -> None:
    method = gan.method(dataclasses.replace(cfg, **settings))
    loop.run(method, data, out=out, steps=steps, batch_size=64, log_every=100, seed=0)


def test_the_loop_says_that_a_discriminator_is_sure(tmp_path, capsys):
    """The paper's minimax game, its generator far off and slow: D wins, and g gets nothing."""
    x = (DRAW.normal(size=(512, 2)) + [40, 0]).astype(np.float32)
    cfg = gan.Config(shape=(2,), hidden=(64,), latent_dim=2, loss="minimax")
    rates = dict(learning_rate=1e-6, discriminator_learning_rate=1e-2)
    trained(cfg, Dataset("far", {"x": x}), tmp_path / "far", 300, **rates)
    printed = capsys.readouterr().err
    assert (
        "gengen: warning: at step" in printed
        and "saturated (discriminator_gradient_signal" in printed
    )


def test_the_loop_says_that_a_generator_has_collapsed(tmp_path, capsys):
    """Samples within 1 of each other, data within 100, and a generator that hardly moves."""
    x = 100 * DRAW.normal(size=(512, 2)).astype(np.float32)
    cfg = gan.Config(shape=(2,), hidden=(64,), latent_dim=2)
    trained(cfg, Dataset("wide", {"x": x}), tmp_path / "one", 100, learning_rate=1e-6)
    assert "collapsed (spread = 0.0" in capsys.readouterr().err


@pytest.mark.parametrize("model", [gan, wgan], ids=lambda m: m.__name__.split(".")[-1])
def test_a_game_that_goes_well_is_silent(model, tmp_path, capsys):
    cfg = model.Config(shape=(2,), hidden=(64,), latent_dim=2)
    loop.run(
        model.method(cfg), load("ring8"), out=tmp_path / "well", steps=300,
        batch_size=cfg.batch_size, log_every=100, seed=0,
    )  # fmt: skip
    assert "warning" not in capsys.readouterr().err
