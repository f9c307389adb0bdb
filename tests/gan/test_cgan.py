"""Conditional GAN: labels condition both networks, in training and in sampling."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from gengen import rng
from gengen.contract import Task
from gengen.data import batch_indices, load, to_batch
from gengen.errors import InputError
from gengen.gan import cgan, dcgan, game
from gengen.gan.game import player_losses
from gengen.gan.networks import concatenate_class
from tests.train_steps import often

CFG = cgan.Config(
    shape=(4, 4, 1), channels=(), hidden=(8,), latent_dim=3, num_classes=3, batch_size=6
)
X = np.tanh(np.random.default_rng(0).normal(size=(6, 4, 4, 1))).astype(np.float32)
Y = np.array([0, 1, 2, 0, 1, 2], np.int32)
BATCH = {"image": X, "label": Y}
KEY = jax.random.key(4)


def test_a_class_is_concatenated_to_vectors_and_images():
    got = concatenate_class(jnp.ones((2, 3)), jnp.array([2, 0]), 3)
    np.testing.assert_array_equal(got, [[1, 1, 1, 0, 0, 1], [1, 1, 1, 1, 0, 0]])
    image = np.asarray(concatenate_class(jnp.ones((2, 4, 4, 1)), jnp.array([2, 0]), 3))
    assert image.shape == (2, 4, 4, 4)
    np.testing.assert_array_equal(image[0].mean((0, 1)), [1, 0, 0, 1])
    np.testing.assert_array_equal(image[1].mean((0, 1)), [1, 1, 0, 0])


@pytest.mark.parametrize("channels", [(), (4, 8)])
def test_both_networks_are_conditioned(channels):
    cfg = dataclasses.replace(CFG, channels=channels, projection=False)
    played = cgan.game(cfg)
    variables = game.init_variables(played)(KEY, BATCH)
    z = jnp.ones((6, 3))
    images = [game.generate(played, variables, z, jnp.full(6, k))[0] for k in (0, 1)]
    assert np.abs(images[0] - images[1]).max() > 1e-4
    logits = [game.discriminate(played, variables, jnp.asarray(X), jnp.full(6, k)) for k in (0, 1)]
    assert np.abs(logits[0] - logits[1]).max() > 1e-3


def test_projection_adds_a_filter_of_the_class():
    """D(x|y) = D(x) + v_y·φ(x): without v_y it is DCGAN's D; two filters may change places."""
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


def test_samples_are_of_the_batchs_classes():
    """Another label of a row changes both players' losses; the order of rows does not matter."""
    played = cgan.game(CFG)
    variables = game.init_variables(played)(KEY, BATCH)
    params = variables.pop("params")
    other = {**BATCH, "label": (Y + 1) % 3}
    for loss in player_losses(played).values():
        a, b = (float(loss(params, {}, KEY, batch)[0]) for batch in (BATCH, other))
        assert abs(a - b) > 1e-6


@pytest.mark.parametrize("n_critic", [1, 2])
def test_each_network_is_conditioned_on_the_labels_of_its_row(n_critic):
    """Both losses, composed from G and D by hand; the generator's step has every n-th label."""
    played = cgan.game(CFG)
    variables = game.init_variables(played)(KEY, BATCH)
    params, y = variables["params"], jnp.asarray(Y)

    def logits(key, y):
        z = rng.normal(key, (len(y), 3))
        return game.discriminate(played, variables, game.generate(played, variables, z, y)[0], y)

    losses = player_losses(played, n_critic)
    on_real = game.discriminate(played, variables, jnp.asarray(X), y)
    on_fake = logits(jax.random.split(KEY, 3)[0], y)
    want = played.losses.discriminator(on_real, on_fake)
    found = losses["discriminator"](params, {}, KEY, BATCH)[0]
    np.testing.assert_allclose(found, want, rtol=1e-5)
    want = played.losses.generator(logits(jax.random.split(KEY)[0], y[::n_critic]))
    found = losses["generator"](params, {}, KEY, BATCH)[0]
    np.testing.assert_allclose(found, want, rtol=1e-5)


def test_samples_have_each_class_in_turn_or_the_given_ones():
    state = cgan.method(CFG).init(KEY, BATCH)
    drawn = cgan.sample(CFG, state.variables, KEY, 6)
    same = cgan.sample(CFG, state.variables, KEY, 6, condition=cgan.condition_of(CFG, BATCH))
    np.testing.assert_array_equal(drawn, same)
    ones = cgan.sample(CFG, state.variables, KEY, 6, condition=np.ones(6, int))
    assert np.abs(drawn - ones).max() > 1e-3
    np.testing.assert_array_equal(drawn[1], ones[1])


def test_what_is_no_class_is_refused():
    state = cgan.method(CFG).init(KEY, BATCH)
    for y in (np.array([3, 0]), np.array([-1, 0]), np.zeros(3, int)):
        with pytest.raises(InputError, match=r"0\.\.2|labels are"):
            cgan.sample(CFG, state.variables, KEY, 2, condition=y)
    with pytest.raises(InputError, match="no labels"):
        cgan.method(CFG).init(KEY, {"image": X})
    with pytest.raises(InputError, match="Config.num_classes"):
        dataclasses.replace(CFG, num_classes=0)
    with pytest.raises(InputError, match="labelled data"):
        cgan.Config.for_task(Task((8, 8, 1)))


@pytest.mark.slow
def test_the_class_asked_is_the_class_seen():
    """On digits, by a judge trained on real ones: at least 95 of 100."""
    data = load("digits")
    cfg = cgan.Config(shape=(8, 8, 1), channels=(), hidden=(256, 256), latent_dim=16,
                      batch_size=128, learning_rate=1e-3, discriminator_learning_rate=1e-3,
                      ema_decay=0.99)  # fmt: skip
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
    x = np.asarray(cgan.sample(cfg, state.variables, jax.random.key(2), 500, condition=y))
    seen = judge.predict((x.reshape(500, -1) + 1) / 2)
    assert np.mean(seen == y) >= 0.95
    # And a class is not one image: the deviation over its draws is a good part of the data's.
    zeros = np.float64(real["image"][real["label"] == 0]) / 127.5 - 1
    assert x[y == 0].std(0).mean() > 0.3 * zeros.std(0).mean()
