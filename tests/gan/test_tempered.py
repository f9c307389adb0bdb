"""Tempered GAN: the weight's course, the lens's loss, and that the lens ends as the identity."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.compile import compile_step
from gengen.gan import game, tempered
from tests.gan.smooth import normal

CFG = tempered.Config(shape=(2,), hidden=(8,), latent_dim=3, batch_size=6, fade_steps=10)
X = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
KEY = jax.random.key(2)


def test_the_weight_fades():
    t = np.arange(15)
    wanted = np.where(t < 10, 1 - np.sin(np.pi * t / 20), 0)
    np.testing.assert_allclose(tempered.weight(CFG, jnp.arange(15)), wanted, atol=1e-6)


def test_the_lens_is_clear_at_first():
    state = tempered.method(CFG).init(jax.random.key(0), {"x": X})
    np.testing.assert_array_equal(tempered.apply_lens(CFG, state.params, jnp.asarray(X)), X)


def test_the_losses_by_hand():
    """After two steps: the lens's from its parts, and what the discriminator saw."""
    method = tempered.method(dataclasses.replace(CFG, lens_learning_rate=0.05))
    step = jax.jit(method.train_step)
    state = method.init(jax.random.key(0), {"x": X})
    states, metrics = [state], []
    for _ in range(3):
        state, found = step(KEY, state, {"x": X})
        states.append(state)
        metrics.append(found)
    before, after, found = states[2], states[3], metrics[2]
    played = tempered.game(CFG)
    discriminator_key, _, lens_key = jax.random.split(jax.random.fold_in(KEY, 2), 3)

    def loss(params, seen, z):
        """The discriminator's, with everything else as given, by NumPy's logarithms."""
        variables = {"params": params}
        z = jnp.asarray(z, jnp.float32)
        fake, _ = game.generate(played, variables, z)
        on = [np.float64(game.discriminate(played, variables, x)) for x in (seen, fake)]
        return np.logaddexp(0, -on[0]).mean() + np.logaddexp(0, on[1]).mean()

    seen = tempered.apply_lens(CFG, before.params, jnp.asarray(X))
    assert np.abs(seen - X).max() > 1e-3
    z = normal(jax.random.split(discriminator_key, 3)[0], (6, 3))
    np.testing.assert_allclose(found["discriminator_loss"], loss(before.params, seen, z), rtol=1e-5)

    # The lens moves last: the others have moved.
    params = {**after.params, "lens": before.params["lens"]}
    distance = np.sum((np.float64(seen) - X) ** 2, axis=1).mean()
    now = 1 - np.sin(np.pi * 2 / 20)
    wanted = distance - now * loss(params, seen, normal(lens_key, (6, 3)))
    np.testing.assert_allclose(found["distance"], distance, rtol=1e-5)
    np.testing.assert_allclose(found["lambda"], now, rtol=1e-6)
    np.testing.assert_allclose(found["lens_loss"], wanted, rtol=1e-5)
    assert int(after.mutables[game.STATES]["lens"]["moves"]) == 3


def test_the_lens_becomes_the_identity():
    """As λ → 0: first it bends the data, E‖L(x) - x‖² > 1e-2, in the end it does not, < 1e-4."""
    cfg = tempered.Config(shape=(2,), hidden=(16,), latent_dim=2, batch_size=64, fade_steps=150,
                          lens_learning_rate=1e-2, learning_rate=1e-4,
                          discriminator_learning_rate=5e-3)  # fmt: skip
    method, draw = tempered.method(cfg), np.random.default_rng(0)
    data = lambda: {"x": (draw.normal(size=(64, 2)) + [2, 0]).astype("f")}  # noqa: E731
    state, step = method.init(jax.random.key(0), data()), compile_step(method.train_step)
    distances = []
    for _ in range(400):
        state, metrics = step(jax.random.key(1), state, data())
        distances.append(float(metrics["distance"]))
    assert max(distances) > 1e-2
    assert distances[-1] < 1e-4


@pytest.mark.parametrize("name", ["fade_steps", "lens_learning_rate"])
def test_an_impossible_config_is_refused(name):
    with pytest.raises(ValueError, match=f"Config.{name}"):
        dataclasses.replace(CFG, **{name: 0})
