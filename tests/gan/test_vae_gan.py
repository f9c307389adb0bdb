"""VAE-GAN: without the game it is the VAE; each player moves alone; the losses by NumPy."""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.gan import vae_gan
from gengen.types import InputError
from gengen.vae import vae
from tests.cases import images

SMALL: dict[str, Any] = dict(
    shape=(8, 8, 1), channels=(4,), hidden=(8,), latent_shape=(3,), batch_size=8
)
CFG = vae_gan.Config(**SMALL, discriminator_channels=(4,), discriminator_hidden=(8,))
BATCH = images(CFG, 8)
KEY = jax.random.key(3)


def after(module, cfg, steps: int):
    """The states from the first to the one after `steps` steps, and the last metrics."""
    method = module.method(cfg)
    states, metrics = [method.init(jax.random.key(0), BATCH)], {}
    step = jax.jit(method.train_step)
    for _ in range(steps):
        state, metrics = step(KEY, states[-1], BATCH)
        states.append(state)
    return states, metrics


def moved(a, b) -> bool:
    return any(np.any(x != y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize("reconstructed", ["real", "fake"])
def test_without_the_game_it_is_the_vae_bit_for_bit(reconstructed):
    cfg = dataclasses.replace(CFG, adversarial_weight=0.0, reconstructed=reconstructed)
    own, alone = after(vae_gan, cfg, 4)[0][-1], after(vae, vae.Config(**SMALL), 4)[0][-1]
    chex.assert_trees_all_equal(own.params["generator"], alone.params)
    chex.assert_trees_all_equal(own.ema["generator"], alone.ema)
    chex.assert_trees_all_equal(own.opt_state["generator"], alone.opt_state)
    weighted = after(vae_gan, dataclasses.replace(CFG, reconstructed=reconstructed), 4)[0][-1]
    assert moved(weighted.params["generator"], alone.params)


@pytest.mark.parametrize("name", ["generator", "discriminator"])
def test_a_players_step_leaves_the_other_as_it_is(name):
    """By an optimiser that moves nothing for the other player: what is left is this one's step."""
    other = {"generator": "discriminator", "discriminator": "generator"}[name]
    rates: dict[str, Any] = {
        "generator": dict(discriminator_learning_rate=1e-30),
        "discriminator": dict(learning_rate=1e-30),
    }
    first, last = after(vae_gan, dataclasses.replace(CFG, **rates[name]), 1)[0]
    assert moved(first.params[name], last.params[name])
    # Steps of 1e-30 round to none; biases start at 0, so they may hold 1e-30 itself.
    chex.assert_trees_all_close(first.params[other], last.params[other], rtol=0, atol=1e-29)


def test_losses_by_hand():
    rng = np.random.default_rng(0)
    real, decoded, drawn = rng.normal(size=(3, 5))
    soft = lambda x: np.log1p(np.exp(x)).mean()  # noqa: E731
    given = [jnp.asarray(x) for x in (real, decoded, drawn)]
    fake = dataclasses.replace(CFG, reconstructed="fake")
    for cfg, on_decoded, adversarial in (
        (CFG, soft(-decoded), soft(-drawn)),
        (fake, soft(decoded), soft(-drawn) + soft(-decoded)),
    ):
        wanted = soft(-real) + on_decoded + soft(drawn)
        np.testing.assert_allclose(vae_gan.discriminator_loss(cfg, *given), wanted, rtol=1e-5)
        found = vae_gan.adversarial_loss(cfg, *given[1:])
        np.testing.assert_allclose(found, adversarial, rtol=1e-5)
    a, b = rng.normal(size=(2, 5, 4))
    wanted = 0.5 * ((a - b) ** 2).sum(1).mean()
    np.testing.assert_allclose(vae_gan.feature_loss(jnp.asarray(a), jnp.asarray(b)), wanted, 1e-5)


def test_the_generators_loss_is_the_weighted_sum_of_its_terms():
    cfg = dataclasses.replace(
        CFG, adversarial_weight=3.0, feature_weight=2.0, likelihood_weight=0.5, beta=0.7
    )
    m = after(vae_gan, cfg, 1)[1]
    wanted = 0.5 * m["reconstruction"] + 0.7 * m["kl"] + 3 * m["adversarial"] + 2 * m["features"]
    np.testing.assert_allclose(m["generator_loss"], wanted, rtol=1e-5)
    assert m["features"] > 1e-3


def test_the_game_does_not_reach_the_encoder():
    """With the game alone, of fake reconstructions too, the encoder stays; the decoder moves."""
    cfg = dataclasses.replace(
        CFG, reconstructed="fake", likelihood_weight=0.0, beta=0.0, adversarial_weight=1.0
    )
    first, last = (s.params["generator"] for s in after(vae_gan, cfg, 1)[0])
    chex.assert_trees_all_equal(first["encoder"], last["encoder"])
    assert moved(first["decoder"], last["decoder"])


@pytest.mark.parametrize(
    "change",
    [dict(reconstructed="drawn"), dict(adversarial_weight=-1.0),
     dict(discriminator_learning_rate=0.0)],
)  # fmt: skip
def test_bad_fields_are_named(change: dict[str, Any]):
    with pytest.raises(InputError, match=next(iter(change))):
        dataclasses.replace(CFG, **change)
