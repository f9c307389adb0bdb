"""WGAN-GP: the penalty against finite differences, and the best critic between two points."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from gengen.gan import game, wgan_gp
from gengen.gan.dirac import Slope
from gengen.gan.game import Game, player_losses
from gengen.steps import method as build
from gengen.steps import player
from tests.gan.smooth import FAKE, KEY, REAL, D, slopes, uniform


def test_the_losses_by_hand():
    losses = wgan_gp.wasserstein()
    real, fake = jnp.array([1.0, 4.0]), jnp.array([-1.0, 0.0])
    assert float(losses.discriminator(real, fake)) == pytest.approx(-0.5 - 2.5)
    assert float(losses.generator(fake)) == pytest.approx(0.5)


def test_the_penalty_is_that_of_finite_differences():
    epsilon = uniform(KEY, (len(REAL), 1))
    between = epsilon * REAL + (1 - epsilon) * FAKE
    wanted = 7.0 * np.mean((np.linalg.norm(slopes(between), axis=1) - 1) ** 2)
    got = wgan_gp.gradient_penalty(7.0).of(D, jnp.asarray(REAL), jnp.asarray(FAKE), KEY)
    np.testing.assert_allclose(float(got), wanted, rtol=1e-5)  # float32 against float64


def test_points_are_between_and_each_has_its_own():
    """Where D = ½x², ∇D is x itself: on the line from 2 to 3 the norm lies between."""

    def half_square(x):
        return 0.5 * jnp.sum(x**2, axis=1)

    real, fake = jnp.full((500, 1), 2.0), jnp.full((500, 1), 3.0)
    got = float(wgan_gp.gradient_penalty(1.0).of(half_square, real, fake, KEY))
    x = uniform(KEY, (500, 1))
    np.testing.assert_allclose(got, np.mean((2 * x + 3 * (1 - x) - 1) ** 2), rtol=1e-5)
    assert len({*x[:, 0]}) == 500
    np.testing.assert_allclose(x.mean(), 0.5, atol=4 * np.sqrt(1 / 12 / 500))


def test_a_flat_critic_has_a_penalty_and_no_nan():
    penalty = wgan_gp.gradient_penalty(10.0).of
    value, grad = jax.value_and_grad(
        lambda w: penalty(lambda x: w * x[:, 0], jnp.ones((3, 1)), jnp.zeros((3, 1)), KEY)
    )(0.0)
    assert float(value) == pytest.approx(10) and np.isfinite(float(grad))


class At(nn.Module):
    """Every z ↦ θ."""

    theta: float

    @nn.compact
    def __call__(self, z, y=None, train=False):
        return self.theta + 0 * z * self.param("nothing", nn.initializers.zeros, (1,))


@pytest.mark.parametrize("theta, weight", [(1.0, 10.0), (-2.0, 1.0), (0.5, 0.25)])
def test_between_two_points_the_gap_is_known(theta, weight):
    """θ(1 + θ/(2λ)), where W₁ is θ: a critic of one slope, trained until it rests."""
    played = Game(At(theta), Slope(), (1,), 1, wgan_gp.wasserstein(),
                  (wgan_gp.gradient_penalty(weight),))  # fmt: skip
    loss = player_losses(played)["discriminator"]
    method = build(
        game.init_variables(played), player("discriminator", loss, optax.sgd(0.2 / weight))
    )
    data = {"x": jnp.zeros((4, 1))}
    state, step = method.init(jax.random.key(0), data), jax.jit(method.train_step)
    # ψ begins at 1; where θ > 0 it must be < 0, past 0, whose penalty turns: begin on that side.
    state = state.replace(
        params={**state.params, "discriminator": {"psi": -jnp.sign(jnp.array([theta]))}}
    )
    metrics = {}
    for _ in range(100):
        state, metrics = step(jax.random.key(1), state, data)
    gap = float(metrics["real_logit"] - metrics["fake_logit"])
    assert gap == pytest.approx(abs(theta) * (1 + abs(theta) / (2 * weight)), rel=1e-5)


def test_the_papers_numbers():
    cfg = wgan_gp.Config.paper()
    assert (cfg.gradient_penalty, cfg.n_critic, cfg.b1, cfg.b2) == (10, 5, 0, 0.9)
    assert cfg.learning_rate == cfg.discriminator_learning_rate == 1e-4


@pytest.mark.parametrize(
    "change, message",
    [(dict(gradient_penalty=-1.0), "Config.gradient_penalty"), (dict(n_critic=0), "n_critic"),
     (dict(batch_size=7), "Config.batch_size")],
)  # fmt: skip
def test_an_impossible_config_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(wgan_gp.Config(), **change)
