"""GAN: what is known of the best discriminator, and of each of the generator's losses at it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from scipy.stats import norm

from gengen import divergences
from gengen.compile import compile_step
from gengen.gan import game, gan
from gengen.gan.game import Game, player_losses
from gengen.gan.networks import Discriminator
from gengen.steps import method as build
from gengen.steps import player

# p = N(0, 1), q = N(1, 0.8²), on a grid that cuts off less than 1e-12 of each.
GRID = np.linspace(-9, 9, 4001)
DX = float(GRID[1] - GRID[0])
P, Q = norm.pdf(GRID), norm.pdf(GRID, 1.0, 0.8)
BEST = np.log(P) - np.log(Q)  # the logit of D* = p / (p + q)


def V(logit, p=P, q=Q):
    """E_p ln D + E_q ln(1-D) on the grid, in float64."""
    return -np.sum(p * np.logaddexp(0, -logit) + q * np.logaddexp(0, logit)) * DX


def quantiles(mean, std, num=20_000):
    """Equally likely points of a Gaussian: means over them are expectations."""
    return norm.ppf((np.arange(num) + 0.5) / num, mean, std)


def logits(x):
    return jnp.asarray(norm.logpdf(x) - norm.logpdf(x, 1.0, 0.8), jnp.float32)


REAL, FAKE = quantiles(0, 1), quantiles(1, 0.8)


def test_the_value_of_the_best_discriminator():
    """V(g, D*) = 2 JS(p, q) - ln 4, and -cross_entropy is V."""
    wanted = 2 * divergences.js(P, Q, DX) - np.log(4)
    assert V(BEST) == pytest.approx(wanted, abs=1e-9)
    # 20,000 quantiles miss a tail's share of the integral of x², some 1e-4.
    assert -float(gan.cross_entropy(logits(REAL), logits(FAKE))) == pytest.approx(wanted, abs=3e-4)


def test_any_other_discriminator_has_less():
    draw = np.random.default_rng(0)
    for scale in (1e-3, 0.1, 1.0):
        for _ in range(10):
            bump = scale * np.sin(draw.normal() * GRID + draw.normal())
            assert V(BEST + bump) < V(BEST)


def test_at_the_data_the_value_is_minus_ln_4():
    assert V(np.zeros_like(GRID), P, P) == pytest.approx(-np.log(4), abs=1e-9)
    zero = jnp.zeros(5)
    assert float(gan.cross_entropy(zero, zero)) == pytest.approx(np.log(4), rel=1e-6)


def test_the_generators_losses_at_the_best_discriminator():
    """-ln(D/(1-D)): KL(q ‖ p), in closed form; minimax: its part of V; -ln D: by the grid."""
    on_fake = logits(FAKE)
    closed = np.log(1 / 0.8) + (0.8**2 + 1) / 2 - 0.5
    assert divergences.kl(Q, P, DX) == pytest.approx(closed, abs=1e-9)
    assert float(gan.kl(on_fake)) == pytest.approx(closed, abs=3e-4)
    minimax = -np.sum(Q * np.logaddexp(0, BEST)) * DX
    assert float(gan.minimax(on_fake)) == pytest.approx(minimax, abs=3e-4)
    nonsaturating = np.sum(Q * np.logaddexp(0, -BEST)) * DX
    assert float(gan.nonsaturating(on_fake)) == pytest.approx(nonsaturating, abs=3e-4)
    # ln(1-D) = ln D - ln(D/(1-D))
    assert minimax == pytest.approx(-nonsaturating + closed, abs=1e-9)


def test_where_the_losses_are_flat():
    """At a sure discriminator, D(g(z)) → 0, minimax has no gradient; the other two have slope 1."""
    slopes = {name: float(jax.grad(lambda x, f=losses.generator: f(x))(jnp.array([-20.0]))[0])
              for name, losses in gan.LOSSES.items()}  # fmt: skip
    assert slopes["minimax"] == pytest.approx(-np.exp(-20), rel=1e-3)
    assert slopes["nonsaturating"] == pytest.approx(-1, rel=1e-6)
    assert slopes["kl"] == -1


class Fixed(nn.Module):
    """Quantiles of q, whatever z: nothing to learn."""

    @nn.compact
    def __call__(self, z, y=None, train=False):
        nothing = self.param("nothing", nn.initializers.zeros, (1,))
        return jnp.asarray(quantiles(1, 0.8, len(z))[:, None], jnp.float32) + 0 * nothing


def test_a_trained_discriminator_is_p_over_p_plus_q():
    """Largest error under 0.03 where p + q is above 1 % of its maximum.

    Trained on 1024 quantiles of each law, so that what is left is not the noise of the batches.
    """
    played = Game(Fixed(), Discriminator(hidden=(32, 32)), (1,), 1, gan.LOSSES["minimax"])
    steps = 600
    tx = optax.adam(optax.cosine_decay_schedule(1e-2, steps))
    method = build(
        game.init_variables(played),
        player("discriminator", player_losses(played)["discriminator"], tx),
    )
    data = {"x": jnp.asarray(quantiles(0, 1, 1024)[:, None], jnp.float32)}
    state, step = method.init(jax.random.key(0), data), compile_step(method.train_step)
    for _ in range(steps):
        state, _ = step(jax.random.key(1), state, data)
    x = jnp.asarray(GRID[:, None], jnp.float32)
    found = jax.nn.sigmoid(game.discriminate(played, state.variables, x))
    some = P + Q > 0.01 * (P + Q).max()
    assert np.abs(found - P / (P + Q))[some].max() < 0.03


def test_learns_a_shifted_gaussian():
    """Learning test: mean and deviation of the samples come near the data's, from 3 away."""
    cfg = gan.Config(shape=(2,), hidden=(32, 32), latent_dim=4, batch_size=256, learning_rate=2e-3,
                     discriminator_learning_rate=4e-3, ema_decay=0.99)  # fmt: skip
    method, draw = gan.method(cfg), np.random.default_rng(0)
    data = lambda: {"x": (draw.normal(size=(256, 2)) * 0.5 + [3, -1]).astype("f")}  # noqa: E731
    state, step = method.init(jax.random.key(0), data()), compile_step(method.train_step)
    for _ in range(500):
        state, _ = step(jax.random.key(1), state, data())
    x = np.asarray(gan.sample(cfg, state.variables, jax.random.key(2), 1000))
    assert np.linalg.norm(x.mean(0) - [3, -1]) < 0.4
    assert np.all((x.std(0) > 0.25) & (x.std(0) < 1.0))
