"""Aggregated posterior against prior, by MMD; each move by hand; the priors' laws."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gengen import distributions as dist
from gengen.autoencoder import adversarial, autoencoder
from gengen.data import load, to_batch
from gengen.divergences import mmd
from tests.train_steps import train

CFG = adversarial.Config(shape=(3,), hidden=(8,), discriminator_hidden=(8,), batch_size=16)
TOY = adversarial.Config(shape=(8, 8, 1), hidden=(128, 128), discriminator_hidden=(128, 128))


def digits(num=500):
    data = load("digits")
    return to_batch(data.arrays, np.arange(num, dtype=np.int32))


@pytest.mark.slow
def test_codes_are_nearer_to_the_prior_than_an_autoencoders():
    """The two-sample statistic MMD², unbiased, of 500 codes and 500 draws.

    Under equal laws its deviation is about 1/500; 0.001 to 0.048 was seen at this length.
    """
    batch, prior = digits(), adversarial.sample_prior(TOY, jax.random.key(9), 500)
    state = train(adversarial.method(TOY), batch, 1000)
    codes = adversarial.encode(TOY, state.variables, batch["image"])
    plain = autoencoder.Config(shape=(8, 8, 1), channels=(), hidden=(128, 128), latent_shape=(2,))
    other = train(autoencoder.method(plain), batch, 1000)
    free = autoencoder.encode(plain, other.variables, batch["image"])
    distances = mmd(codes, prior, 1.0), mmd(free, prior, 1.0)
    assert distances[0] < 0.07 < 0.1 < distances[1]
    out = np.asarray(adversarial.reconstruct(TOY, state.variables, batch["image"]))
    x = np.asarray(batch["image"])
    assert np.mean((out - x) ** 2) < 0.8 * np.mean((x - x.mean(0)) ** 2)


@pytest.mark.slow
def test_given_labels_each_class_takes_its_petal():
    cfg = dataclasses.replace(TOY, prior="petals", num_classes=10, encoder_learning_rate=3e-4)
    batch = digits()
    state = train(adversarial.method(cfg), batch, 800)
    codes = adversarial.encode(cfg, state.variables, batch["image"])
    nearest = np.argmax(dist.petals().log_parts(codes), axis=1)
    right = np.mean(nearest == np.asarray(batch["label"]))
    assert right > 0.6  # 0.1 by chance


def test_one_step_is_three_moves_by_hand():
    """Gradient descent of rate 0.1 for all: the moves from the losses, differentiated apart."""
    rate, x = 0.1, jnp.asarray(np.random.default_rng(0).normal(size=(16, 3)), jnp.float32)
    method = adversarial.method(CFG, optax.sgd(rate))
    state = method.init(jax.random.key(0), {"x": x})
    key = jax.random.key(5)
    got, metrics = jax.jit(method.train_step)(key, state, {"x": x})

    def mlp(params, h):
        layers = [params[f"Dense_{i}"] for i in range(len(params))]
        for layer in layers[:-1]:
            h = jnp.maximum(h @ layer["kernel"] + layer["bias"], 0)
        return h @ layers[-1]["kernel"] + layers[-1]["bias"]

    e, d, D = (state.params[k] for k in ("encoder", "decoder", "discriminator"))
    code = lambda e: mlp(e["MLP_0"], x)  # noqa: E731
    logit = lambda D, z: mlp(D, z)[:, 0]  # noqa: E731
    move = lambda p, g: jax.tree.map(lambda a, b: a - rate * b, p, g)  # noqa: E731

    def error(e, d):
        return jnp.mean(jnp.sum((x - mlp(d["MLP_0"], code(e))) ** 2, axis=1))

    e, d, first = *map(move, (e, d), jax.grad(error, (0, 1))(e, d)), error(e, d)
    _, second_key, _ = jax.random.split(jax.random.fold_in(key, 0), 3)
    z = adversarial.sample_prior(CFG, second_key, 16)

    def divergence(D):
        real, fake = jax.nn.sigmoid(logit(D, z)), jax.nn.sigmoid(logit(D, code(e)))
        return -jnp.mean(jnp.log(real)) - jnp.mean(jnp.log(1 - fake))

    second = divergence(D)
    D = move(D, jax.grad(divergence)(D))

    def deception(e):
        return -jnp.mean(jnp.log(jax.nn.sigmoid(logit(D, code(e)))))

    third = deception(e)
    e = move(e, jax.grad(deception)(e))
    for name, want in (("encoder", e), ("decoder", d), ("discriminator", D)):
        # float32 gradients of order 1, in another order of sums
        chex.assert_trees_all_close(got.params[name], want, atol=2e-6)
    names = ("reconstruction_loss", "discriminator_loss", "encoder_loss")
    np.testing.assert_allclose([metrics[n] for n in names], [first, second, third], rtol=1e-5)


@pytest.mark.parametrize(
    "name, momentum", [("decoder", "momentum"), ("discriminator", "game_momentum")]
)
def test_each_move_has_the_momentum_that_the_config_gives_it(name, momentum):
    """The second of two steps is that of plain descent and 0.4 times the first."""
    cfg = adversarial.Config(
        shape=(4, 1, 1), latent_dim=2, hidden=(5,), discriminator_hidden=(6,), init_std=0.3,
        optimizer="sgd", learning_rate=0.05, discriminator_learning_rate=0.1,
        encoder_learning_rate=0.1,
    )  # fmt: skip
    batch = {"image": np.random.default_rng(0).uniform(-1, 1, (3, 4, 1, 1)).astype(np.float32)}

    def moves(cfg):
        method, found = adversarial.method(cfg), []
        state = method.init(jax.random.key(0), batch)
        for i in range(2):
            before = state.params[name]
            state, _ = method.train_step(jax.random.key(i), state, batch)
            found.append(jax.tree.map(lambda a, b: a - b, state.params[name], before))
        return found

    first, second = moves(cfg)
    with_momentum = moves(dataclasses.replace(cfg, **{momentum: 0.4}))
    chex.assert_trees_all_close(with_momentum[0], first, rtol=1e-4, atol=1e-6)
    want = jax.tree.map(lambda a, b: b + 0.4 * a, first, second)
    chex.assert_trees_all_close(with_momentum[1], want, rtol=1e-3, atol=1e-6)


def test_the_sigmoid_ends_the_decoder_of_images():
    cfg = adversarial.Config(shape=(4, 1, 1), latent_dim=2, hidden=(5,), sigmoid=True)
    batch = {"image": np.zeros((2, 4, 1, 1), np.float32)}
    variables = adversarial.method(cfg).init(jax.random.key(0), batch).variables
    z = np.array([[0.3, -2.0]], np.float32)
    bare = adversarial.decode(dataclasses.replace(cfg, sigmoid=False), variables, z)
    shown = adversarial.decode(cfg, variables, z)
    np.testing.assert_allclose(shown, np.tanh(np.asarray(bare, np.float64) / 2), rtol=1e-5)
    assert np.abs(bare).max() > 0.05


def test_the_discriminator_sees_labels_beside_codes():
    cfg = dataclasses.replace(CFG, prior="petals", num_classes=3)
    batch = {"x": np.zeros((4, 3), np.float32), "label": np.array([0, 1, 2, -1], np.int32)}
    params = adversarial.method(cfg).init(jax.random.key(0), batch).params
    z = jnp.ones((4, 2))
    kernel = params["discriminator"]["Dense_0"]["kernel"]
    assert kernel.shape == (2 + 4, 8)  # three classes, and one for the unknown
    got = adversarial.discriminate(cfg, params, z, jnp.asarray(batch["label"]))
    last = params["discriminator"]["Dense_1"]
    want = np.maximum(kernel[0] + kernel[1] + kernel[2:], 0) @ last["kernel"]
    np.testing.assert_allclose(got, want[:, 0] + last["bias"], atol=1e-6)


def test_the_priors_have_their_laws():
    num, key = 20_000, jax.random.key(0)
    normal = np.asarray(
        adversarial.sample_prior(dataclasses.replace(CFG, prior_scale=2.0), key, num)
    )
    np.testing.assert_allclose(np.cov(normal.T), 4 * np.eye(2), atol=0.2)  # 5 · 4 √(2/20000)
    petals = dataclasses.replace(CFG, prior="petals")
    z = adversarial.sample_prior(petals, key, num)
    # -E ln p is the entropy: the same of draws by the mixture itself, within 5 · 1.1 √(2/20000).
    of = lambda z: float(-np.mean(dist.petals().log_prob(z)))  # noqa: E731
    assert of(z) == pytest.approx(of(dist.petals().sample(jax.random.key(1), num)), abs=0.06)
    roll = dataclasses.replace(CFG, prior="swiss_roll")
    u = np.linspace(0, 1, 200)
    spiral = np.asarray(adversarial.swiss_roll(jnp.asarray(u)))
    radius = np.hypot(*spiral.T)
    assert radius[0] == pytest.approx(1) and radius[-1] == pytest.approx(3)
    turned = np.unwrap(np.arctan2(spiral[:, 1], spiral[:, 0]))
    assert turned[-1] - turned[0] == pytest.approx(2 * np.pi * adversarial.TURNS, rel=1e-5)
    z = np.asarray(adversarial.sample_prior(roll, key, 500))
    away = np.sqrt(((z[:, None] - spiral) ** 2).sum(-1)).min(1)
    assert np.quantile(away, 0.99) < 3 * adversarial.THICKNESS


def test_a_label_draws_from_its_own_part():
    label = jnp.arange(1000) % 10
    petals = dataclasses.replace(CFG, prior="petals", num_classes=10)
    z = adversarial.sample_prior(petals, jax.random.key(0), 1000, label)
    mixture = dist.petals()
    d = np.asarray(z - mixture.means[label])
    covariances = np.asarray(jnp.einsum("kij,klj->kil", mixture.factors, mixture.factors))
    square = np.einsum("bi,bij,bj->b", d, np.linalg.inv(covariances)[np.asarray(label)], d)
    assert square.mean() == pytest.approx(2, abs=0.32)  # χ² of 2: 5 · 2/√1000
    unknown = adversarial.sample_prior(petals, jax.random.key(0), 1000, jnp.full(1000, -1))
    none = adversarial.sample_prior(petals, jax.random.key(0), 1000)
    np.testing.assert_array_equal(unknown, none)
    roll = dataclasses.replace(CFG, prior="swiss_roll", num_classes=10)
    z = np.asarray(adversarial.sample_prior(roll, jax.random.key(0), 1000, jnp.full(1000, 9)))
    ends = np.asarray(adversarial.swiss_roll(jnp.linspace(0.9, 1, 50)))
    assert np.sqrt(((z[:, None] - ends) ** 2).sum(-1)).min(1).mean() < 2 * adversarial.THICKNESS


@pytest.mark.parametrize(
    "change",
    [dict(shape=(2, 2)), dict(latent_dim=0), dict(prior="uniform"), dict(num_classes=10),
     dict(prior_scale=0.0),
     dict(prior="petals", latent_dim=3), dict(prior="petals", num_classes=11)],
)  # fmt: skip
def test_an_impossible_config_is_refused(change):
    with pytest.raises(ValueError, match="Config"):
        dataclasses.replace(CFG, **change)


def test_bad_input_is_refused():
    cfg = dataclasses.replace(CFG, prior="petals", num_classes=3)
    method, batch = adversarial.method(cfg), {"x": np.zeros((4, 3), np.float32)}
    state = method.init(jax.random.key(0), batch)
    with pytest.raises(ValueError, match="num_classes=0"):
        method.train_step(jax.random.key(0), state, batch)
    with pytest.raises(ValueError, match="latents have shape"):
        adversarial.decode(cfg, state.variables, np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match="num = 0"):
        adversarial.sample(cfg, state.variables, jax.random.key(0), 0)
