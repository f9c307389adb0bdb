"""The linear autoencoder is PCA; losses by hand; codes of both kinds."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy.linalg import subspace_angles

from gengen.autoencoder import autoencoder
from tests.train_steps import falling, often, train

STEPS = 4000
LINEAR = autoencoder.Config(shape=(6,), latent_shape=(2,))


def correlated(num=500, seed=0):
    """Six dimensions of standard deviations 3, 2, 1, 0.7, 0.5, 0.3, turned, off the origin."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    x = rng.normal(size=(num, 6)) * [3, 2, 1, 0.7, 0.5, 0.3] @ turn + [1, -2, 0, 0.5, 3, 0]
    return x.astype(np.float32)


def pca(x, k):
    """The first k principal directions [D, k] and the error that they leave, in float64."""
    centred = np.float64(x) - np.float64(x).mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(x))
    return vectors[:, ::-1][:, :k], values[::-1][k:].sum()


@pytest.mark.parametrize("tied", [False, True])
def test_a_linear_autoencoder_is_pca(tied):
    """The issue's bounds: largest principal angle 1e-2, error within 1e-3 of PCA's."""
    x, cfg = correlated(), dataclasses.replace(LINEAR, tied=tied)
    state = train(autoencoder.method(cfg, falling(STEPS)), {"x": x}, STEPS)
    out = np.float64(autoencoder.reconstruct(cfg, state.variables, x))
    directions, error = pca(x, 2)
    centred = out - out.mean(0)  # what is decoded spans the subspace
    spanned = np.linalg.svd(centred, full_matrices=False)[2][:2].T
    assert subspace_angles(spanned, directions).max() < 1e-2
    assert np.mean(np.sum((x - out) ** 2, axis=1)) == pytest.approx(error, rel=1e-3)
    np.testing.assert_allclose(out.mean(0), x.mean(0), atol=1e-2)


def test_nonlinear_layers_beat_pca_on_a_curve():
    t = np.random.default_rng(0).uniform(-1, 1, 400)
    x = np.stack([t, t**2 - 1 / 3], axis=1).astype(np.float32)
    cfg = autoencoder.Config(shape=(2,), latent_shape=(1,), hidden=(16, 16), activation="tanh")
    state = train(autoencoder.method(cfg, falling(2000)), {"x": x}, 2000)
    error = np.mean(
        np.sum((x - np.asarray(autoencoder.reconstruct(cfg, state.variables, x))) ** 2, 1)
    )
    assert error < 0.1 * pca(x, 1)[1]


def test_the_losses_by_hand():
    x = np.random.default_rng(0).uniform(-1, 1, (5, 2, 3, 1))
    eta = np.random.default_rng(1).normal(size=(5, 2, 3, 1)) * 3
    cfg = autoencoder.Config(shape=(2, 3, 1), channels=())
    args = np.float32(x), np.float32(eta)
    mse = autoencoder.distance(cfg, *map(jax.numpy.asarray, args))
    # float32 sums of 6 terms of order 10
    np.testing.assert_allclose(mse, np.sum((x - eta) ** 2, axis=(1, 2, 3)), rtol=1e-6)
    entropy = dataclasses.replace(cfg, loss="cross-entropy")
    t, p = (x + 1) / 2, 1 / (1 + np.exp(-eta))
    want = np.sum(-t * np.log(p) - (1 - t) * np.log(1 - p), axis=(1, 2, 3))
    got = autoencoder.distance(entropy, *map(jax.numpy.asarray, args))
    np.testing.assert_allclose(got, want, rtol=2e-6)
    # The best x̂ is x itself: the decoded logit of t = (x+1)/2 is x.
    logit = np.float32(np.log(t / (1 - t)))
    np.testing.assert_allclose(autoencoder.as_data(entropy, jax.numpy.asarray(logit)), x, atol=1e-6)


def test_tied_weights_are_the_encoders():
    cfg = autoencoder.Config(
        shape=(4,), latent_shape=(2,), hidden=(3,), tied=True, activation="tanh"
    )
    x = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    params = autoencoder.method(cfg).init(jax.random.key(0), {"x": x}).params
    assert sorted(params["mlp"]) == ["W1", "W2", "b1", "b2", "c1", "c2"]
    p = {k: np.float64(v) for k, v in params["mlp"].items()}
    z = np.tanh(x @ p["W1"]) @ p["W2"]
    want = np.tanh(z @ p["W2"].T) @ p["W1"].T  # biases start at 0
    np.testing.assert_allclose(autoencoder.reconstruct(cfg, {"params": params}, x), want, atol=1e-5)


def test_the_code_of_32_x_32_colour_images_is_4_x_4_x_16():
    cfg = autoencoder.Config(shape=(32, 32, 3))
    assert autoencoder.latent_shape(cfg) == (4, 4, 16)
    assert autoencoder.latent_shape(dataclasses.replace(cfg, shape=(28, 28, 1))) == (4, 4, 16)
    small = dataclasses.replace(cfg, channels=(2, 2, 2))
    x = np.zeros((2, 32, 32, 3), np.float32)
    state = autoencoder.method(small).init(jax.random.key(0), {"image": x})
    assert autoencoder.encode(small, state.variables, x).shape == (2, 4, 4, 16)
    assert autoencoder.reconstruct(small, state.variables, x).shape == x.shape


def test_a_convolutional_autoencoder_learns():
    """Learning test: 8×8 squares and bars; the error must fall below a quarter of the variance."""
    rng = np.random.default_rng(0)
    x = -np.ones((256, 8, 8, 1), np.float32)
    for image in x:
        i, j = rng.integers(0, 5, 2)
        image[i : i + rng.integers(2, 5), j : j + rng.integers(2, 5)] = 1
    cfg = autoencoder.Config(shape=(8, 8, 1), channels=(8, 16), latent_shape=(8,))
    method = autoencoder.method(cfg, falling(400, 5e-3))
    state, step = method.init(jax.random.key(0), {"image": x}), often(method.train_step)
    for _ in range(400):
        state, _ = step(jax.random.key(0), state, {"image": x})
    out = np.asarray(autoencoder.reconstruct(cfg, state.variables, x))
    assert np.abs(out).max() <= 1
    assert np.mean((x - out) ** 2) < 0.25 * np.mean((x - x.mean(0)) ** 2)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(shape=(4, 4)), "Config.shape"),
        (dict(latent_shape=(2, 2)), "Config.latent_shape"),
        (dict(latent_shape=(3, 4, 16)), "Config.latent_shape"),
        (dict(latent_shape=(4, 4, 8), channels=()), "Config.latent_shape"),
        (dict(loss="l1"), "Config.loss"),
        (dict(loss="cross-entropy", shape=(3,)), "Config.loss"),
        (dict(activation="swish"), "Config.activation"),
        (dict(tied=True), "channels="),
        (dict(strides=(2,)), "Config.strides"),
        (dict(batch_size=0), "Config.batch_size"),
    ],
)
def test_an_impossible_config_is_refused(change, message):
    with pytest.raises(ValueError, match=message) as error:
        autoencoder.Config(**change)
    assert "\n" not in str(error.value)


def test_codes_of_another_shape_are_refused():
    state = autoencoder.method(LINEAR).init(jax.random.key(0), {"x": correlated(4)})
    with pytest.raises(ValueError, match="latents have shape"):
        autoencoder.decode(LINEAR, state.variables, np.zeros((3, 5), np.float32))
    with pytest.raises(ValueError, match="Config.shape"):
        autoencoder.encode(LINEAR, state.variables, np.zeros((3, 5), np.float32))
