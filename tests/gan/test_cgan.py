"""Conditional GAN: what is asked for is what is seen."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from gengen.data import batch_indices, load, to_batch
from gengen.errors import InputError
from gengen.gan import cgan, dcgan, game
from gengen.gan.game import moves
from gengen.gan.players import beside
from tests.training import often

CFG = cgan.Config(shape=(4, 4, 1), channels=(), widths=(8,), latent=3, classes=3, batch_size=6)
X = np.tanh(np.random.default_rng(0).normal(size=(6, 4, 4, 1))).astype(np.float32)
Y = np.array([0, 1, 2, 0, 1, 2], np.int32)
BATCH = {"image": X, "label": Y}
KEY = jax.random.key(4)


def test_a_class_stands_beside_vectors_and_images():
    got = beside(jnp.ones((2, 3)), jnp.array([2, 0]), 3)
    np.testing.assert_array_equal(got, [[1, 1, 1, 0, 0, 1], [1, 1, 1, 1, 0, 0]])
    image = np.asarray(beside(jnp.ones((2, 4, 4, 1)), jnp.array([2, 0]), 3))
    assert image.shape == (2, 4, 4, 4)
    np.testing.assert_array_equal(image[0].mean((0, 1)), [1, 0, 0, 1])
    np.testing.assert_array_equal(image[1].mean((0, 1)), [1, 1, 0, 0])


@pytest.mark.parametrize("channels", [(), (4, 8)])
def test_both_players_are_told(channels):
    played = cgan.game(dataclasses.replace(CFG, channels=channels))
    variables = game.init_variables(played)(KEY, BATCH)
    z = jnp.ones((6, 3))
    images = [game.generate(played, variables, z, jnp.full(6, k))[0] for k in (0, 1)]
    assert np.abs(images[0] - images[1]).max() > 1e-4
    logits = [game.criticise(played, variables, jnp.asarray(X), jnp.full(6, k)) for k in (0, 1)]
    assert np.abs(logits[0] - logits[1]).max() > 1e-3


def test_projection_adds_a_filter_of_the_class():
    """D(x|y) = D(x) + v_y·φ(x): without v_y DCGAN's D, and two classes' filters may change places.

    Raises for what is no image.
    """
    played = cgan.game(dataclasses.replace(CFG, channels=(4, 8), projection=True))
    net, x = played.discriminator, jnp.asarray(X)
    variables = net.init(KEY, x, jnp.asarray(Y))
    last = jnp.asarray(variables["params"]["Conv_2"]["kernel"])
    assert last.shape == (1, 1, 8, 4)

    def logits(kernel, y):
        params = {**variables["params"], "Conv_2": {"kernel": kernel, "bias": jnp.arange(4.0)}}
        return np.asarray(net.apply({**variables, "params": params}, x, jnp.full(6, y)))

    one = dcgan.Discriminator((4, 8))
    params = {**variables["params"], "Conv_2": {"kernel": last[..., :1], "bias": jnp.zeros(1)}}
    plain = one.apply({**variables, "params": params}, x)
    silent = last.at[..., 1:].set(0)
    np.testing.assert_allclose(logits(silent, 1), np.asarray(plain) + 2, rtol=1e-6)  # biases 0 + 2
    swapped = last[..., jnp.array([0, 2, 1, 3])]
    np.testing.assert_allclose(logits(swapped, 0) + 1, logits(last, 1), rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match=r"Config.projection"):
        dataclasses.replace(CFG, projection=True)


def test_samples_are_of_the_batchs_classes():
    """Another label of a row changes both players' losses; the order of rows does not matter."""
    played = cgan.game(CFG)
    variables = game.init_variables(played)(KEY, BATCH)
    params = variables.pop("params")
    other = {**BATCH, "label": (Y + 1) % 3}
    for loss in moves(played).values():
        a, b = (float(loss(params, {}, KEY, batch)[0]) for batch in (BATCH, other))
        assert abs(a - b) > 1e-6


def test_classes_in_turn_or_as_asked():
    state = cgan.method(CFG).init(KEY, BATCH)
    drawn = cgan.sample(CFG, state.variables, KEY, 6)
    np.testing.assert_array_equal(drawn, cgan.sample(CFG, state.variables, KEY, 6, Y))
    ones = cgan.sample(CFG, state.variables, KEY, 6, np.ones(6, int))
    assert np.abs(drawn - ones).max() > 1e-3
    np.testing.assert_array_equal(drawn[1], ones[1])


def test_what_is_no_class_is_refused():
    state = cgan.method(CFG).init(KEY, BATCH)
    for y in (np.array([3, 0]), np.array([-1, 0]), np.zeros(3, int)):
        with pytest.raises(ValueError, match=r"0\.\.2"):
            cgan.sample(CFG, state.variables, KEY, 2, y)
    with pytest.raises(ValueError, match='no "label"'):
        cgan.method(CFG).init(KEY, {"image": X})
    with pytest.raises(ValueError, match="Config.classes"):
        dataclasses.replace(CFG, classes=1)


@pytest.mark.slow
def test_the_class_asked_is_the_class_seen():
    """On digits, by a judge trained on real ones: at least 95 of 100."""
    data = load("digits")
    cfg = cgan.Config(shape=(8, 8, 1), channels=(), widths=(256, 256), latent=16, batch_size=128,
                      learning_rate=1e-3, discriminator_rate=1e-3, ema_decay=0.99)  # fmt: skip
    method = cgan.method(cfg)
    arrays, rows = jax.device_put(data.arrays), jax.jit(to_batch)
    batch = lambda t: rows(arrays, batch_indices(len(data), 128, seed=0, step=t))  # noqa: E731
    state, step = method.init(jax.random.key(0), batch(0)), often(method.train_step)
    for t in range(1200):
        state, _ = step(jax.random.key(1), state, batch(t))
    real, test = (load(f"digits{s}").arrays for s in ("", ":test"))
    judge = LogisticRegression(max_iter=2000)
    judge.fit(real["image"].reshape(len(real["image"]), -1) / 255, real["label"])
    assert judge.score(test["image"].reshape(len(test["image"]), -1) / 255, test["label"]) > 0.93
    y = np.arange(500) % 10
    x = np.asarray(cgan.sample(cfg, state.variables, jax.random.key(2), 500, y))
    seen = judge.predict((x.reshape(500, -1) + 1) / 2)
    assert np.mean(seen == y) >= 0.95
    # And a class is not one image: the deviation over its draws is a good part of the data's.
    zeros = np.float64(real["image"][real["label"] == 0]) / 127.5 - 1
    assert x[y == 0].std(0).mean() > 0.3 * zeros.std(0).mean()
