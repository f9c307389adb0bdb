"""Regularisers: each against finite differences in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gengen.gan import game, regularization
from gengen.gan.regularization import consensus, dragan, instance_noise, js_regulariser, r1, r2
from tests.gan.smooth import FAKE, KEY, REAL, D, normal, numpy_D, slopes, squares, uniform

CFG = regularization.Config(shape=(3,), hidden=(5,), latent_dim=2, batch_size=7)


def value(penalty):
    return float(penalty.of(D, jnp.asarray(REAL), jnp.asarray(FAKE), KEY))


def test_r1_and_r2():
    np.testing.assert_allclose(value(r1(3.0)), 1.5 * squares(REAL).mean(), rtol=1e-5)
    np.testing.assert_allclose(value(r2(3.0)), 1.5 * squares(FAKE).mean(), rtol=1e-5)


def test_the_js_regulariser():
    sure = 1 / (1 + np.exp(-numpy_D(REAL))), 1 / (1 + np.exp(-numpy_D(FAKE)))
    wanted = np.mean((1 - sure[0]) ** 2 * squares(REAL) + sure[1] ** 2 * squares(FAKE))
    np.testing.assert_allclose(value(js_regulariser(0.8)), 0.4 * wanted, rtol=1e-5)


def test_dragan():
    near = REAL + 0.5 * np.std(np.float64(REAL)) * uniform(KEY, REAL.shape)
    wanted = 4.0 * np.mean((np.linalg.norm(slopes(near), axis=1) - 1) ** 2)
    np.testing.assert_allclose(value(dragan(4.0)), wanted, rtol=1e-5)


def test_penalties_of_images_count_every_pixel():
    """D = Σ w·x over [H, W, C]: ‖∇D‖² = Σ w²."""
    w = np.random.default_rng(0).normal(size=(4, 4, 2))
    x = jnp.ones((3, 4, 4, 2))
    got = r1(2.0).of(lambda x: jnp.sum(x * w, axis=(1, 2, 3)), x, x, KEY)
    np.testing.assert_allclose(float(got), np.sum(w**2), rtol=1e-5)


def test_instance_noise_is_added_to_both():
    noise = instance_noise(0.3)
    real, fake, state = noise.in_discriminator_step(
        {}, {}, KEY, jnp.asarray(REAL), jnp.asarray(FAKE)
    )
    keys = jax.random.split(KEY)
    np.testing.assert_allclose(real, REAL + 0.3 * normal(keys[0], REAL.shape), atol=1e-6)
    np.testing.assert_allclose(fake, FAKE + 0.3 * normal(keys[1], FAKE.shape), atol=1e-6)
    fake = noise.in_generator_step({}, KEY, jnp.asarray(FAKE))
    np.testing.assert_allclose(fake, FAKE + 0.3 * normal(KEY, FAKE.shape), atol=1e-6)
    assert state == {}


def test_instance_noise_fades():
    """σ, ¾σ, ½σ, ¼σ, 0, 0: in both moves."""
    noise, zero = instance_noise(2.0, steps=4), jnp.zeros((7, 3))
    state = noise.init(zero[:1])
    for share in (1, 0.75, 0.5, 0.25, 0, 0):
        fake = noise.in_generator_step(state, KEY, zero)
        np.testing.assert_allclose(fake, 2 * share * normal(KEY, (7, 3)), atol=1e-6)
        real, _, state = noise.in_discriminator_step({}, state, KEY, zero, zero)
        wanted = 2 * share * normal(jax.random.split(KEY)[0], (7, 3))
        np.testing.assert_allclose(real, wanted, atol=1e-6)


def quadratic(name, other, matrix):
    """A loss ½ xᵀMx + xᵀy of the player's x and the other's y, as `gengen.steps` has losses."""

    def loss(params, mutables, key, batch):
        x, y = params[name], params[other]
        return 0.5 * x @ matrix @ x + x @ y, ({"own": x.sum()}, mutables)

    return loss


def test_consensus_is_the_gradient_of_the_squared_field():
    """Losses ½xᵀMx + xᵀy and ½yᵀNy - xᵀy: v by hand, ½γ‖v‖² differentiated numerically."""
    draw = np.random.default_rng(0)
    M, N = (m @ m.T for m in draw.normal(size=(2, 2, 2)))
    x, y, gamma = draw.normal(size=2), draw.normal(size=2), 0.7

    def negative(params, *rest):
        return quadratic("y", "x", N)({**params, "x": -params["x"]}, *rest)

    losses = consensus({"x": quadratic("x", "y", M), "y": negative}, gamma)

    def field(x, y):
        return np.sum((M @ x + y) ** 2) + np.sum((N @ y - x) ** 2)

    params = {"x": jnp.asarray(x, jnp.float32), "y": jnp.asarray(y, jnp.float32)}
    for name, own in (("x", M @ x + y), ("y", N @ y - x)):
        at = {"x": x, "y": y}
        numeric = []
        for e in np.eye(2):
            up, down = ({**at, name: at[name] + s * 1e-5 * e} for s in (1, -1))
            numeric.append((field(**up) - field(**down)) / 2e-5)
        loss = losses[name]
        (_, (metrics, _)), grad = jax.value_and_grad(
            lambda p, n=name, f=loss: f({**params, n: p}, {}, KEY, {}), has_aux=True
        )(params[name])
        np.testing.assert_allclose(grad, own + gamma / 2 * np.array(numeric), rtol=2e-5)
        np.testing.assert_allclose(float(metrics["field"]), field(x, y), rtol=1e-5)
        assert "own" in metrics


def test_the_model_has_the_regularisers_of_its_config():
    cfg = dataclasses.replace(
        CFG, r1=1.0, r2=2.0, js=0.1, dragan=1.0, gradient_penalty=1.0, noise_std=0.1
    )
    played = regularization.game(cfg)
    names = [p.name for p in (*played.penalties, *played.transforms)]
    wanted = ["r1", "r2", "js_regulariser", "dragan", "gradient_penalty", "instance_noise"]
    assert names == wanted
    assert [p.name for p in regularization.game(CFG).penalties] == ["r1"]
    assert regularization.game(dataclasses.replace(CFG, r1=0.0)).penalties == ()


def test_the_model_trains_with_consensus():
    """One step of gradient descent is that of the losses with their ½γ‖v‖²."""
    cfg = dataclasses.replace(CFG, r1=0.0, consensus=0.5)
    method = regularization.method(cfg, optax.sgd(0.1))
    state = method.init(jax.random.key(0), {"x": REAL})
    new, metrics = jax.jit(method.train_step)(KEY, state, {"x": REAL})
    losses = consensus(game.player_losses(regularization.game(cfg)), 0.5)
    key = jax.random.split(jax.random.fold_in(KEY, 0))[0]

    @jax.jit
    def gradient(own):
        params = {**state.params, "discriminator": own}
        return losses["discriminator"](params, {}, key, {"x": REAL})[0]

    grad = jax.grad(gradient)(state.params["discriminator"])
    wanted = jax.tree.map(lambda p, g: p - 0.1 * g, state.params["discriminator"], grad)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
                 wanted, new.params["discriminator"])  # fmt: skip
    assert float(metrics["field"]) > 0


@pytest.mark.parametrize("name", ["r1", "js", "dragan", "noise_std", "noise_steps", "consensus"])
def test_a_negative_weight_is_refused(name):
    with pytest.raises(ValueError, match=f"Config.{name}"):
        dataclasses.replace(CFG, **{name: -1})
