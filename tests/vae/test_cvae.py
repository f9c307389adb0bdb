"""The conditional VAE: what y reaches, and a model whose p(x|y) is known exactly."""

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gengen.vae import cvae

NORMAL: Any = stats.multivariate_normal
KEY = jax.random.key(2)
LINEAR = cvae.Config(
    shape=(3,), latent_shape=(1,), hidden=(), scale_mode="fixed", initial_scale=0.5, num_classes=4
)
IMAGES = cvae.Config(
    shape=(6, 6, 1),
    channels=(4,),
    hidden=(8,),
    latent_shape=(2,),
    num_classes=3,
    known_region=(0, 3, 0, 6),
    condition_dim=4,
)
W, SHIFT = np.array([0.9, -0.4, 0.7]), np.random.default_rng(0).normal(size=(4, 3))


@cache
def exact():
    """p(x|z,y) = N(Wz + a_y, σ²I), and q(z|x,y) the true posterior."""
    variance = 1 / (W @ W / 0.25 + 1)
    gain = variance * W / 0.25
    kernel = np.zeros((7, 2))
    kernel[:3, 0], kernel[3:, 0] = gain, -SHIFT @ gain
    log_std = 7 * np.arctanh(0.5 * np.log(variance) / 7)
    params = {
        "encoder": {"MLP_0": {"Dense_0": {"kernel": kernel, "bias": np.array([0, log_std])}}},
        "decoder": {"MLP_0": {"Dense_0": {"kernel": np.vstack([W, SHIFT]), "bias": np.zeros(3)}}},
    }
    like = cvae.method(LINEAR).init(KEY, {"x": np.zeros((1, 3), "f"), "label": np.zeros(1, int)})
    return {"params": jax.tree.map(lambda p, q: jnp.asarray(p, q.dtype), params, like.params)}


def log_p(x, shift):
    return NORMAL.logpdf(x - shift, np.zeros(3), np.outer(W, W) + 0.25 * np.eye(3))


def test_the_bound_is_the_conditional_likelihood_where_q_is_true():
    x = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)
    y = np.arange(8) % 4
    got = cvae.log_prob(LINEAR, exact(), x, condition=y, num=1)
    np.testing.assert_allclose(got, log_p(x, SHIFT[y]), atol=1e-4)
    other = cvae.log_prob(LINEAR, exact(), x, condition=(y + 1) % 4, num=1)
    np.testing.assert_allclose(other, log_p(x, SHIFT[(y + 1) % 4]), atol=1e-4)
    # Weights of classes: here a blend is between its classes, as this decoder is linear.
    blend = np.full((8, 4), 0.25, np.float32)
    got = cvae.log_prob(LINEAR, exact(), x, condition=blend, num=1)
    np.testing.assert_allclose(got, log_p(x, SHIFT.mean(0)), atol=1e-4)
    bounds = [
        cvae.elbo(LINEAR, exact(), x, jax.random.key(i), condition=y).mean() for i in range(100)
    ]
    want = log_p(x, SHIFT[y]).mean()
    assert np.mean(bounds) == pytest.approx(want, abs=float(5 * np.std(bounds) / 100**0.5))


def test_samples_have_the_mean_of_the_class_asked():
    y = np.repeat(np.arange(4), 5000)
    x = np.asarray(cvae.sample(LINEAR, exact(), KEY, 20_000, condition=y)).reshape(4, 5000, 3)
    np.testing.assert_allclose(x.mean(1), SHIFT, atol=5 * (1.1 / 5000) ** 0.5)
    np.testing.assert_allclose(np.cov(x[2].T), np.outer(W, W) + 0.25 * np.eye(3), atol=0.12)
    anyone = np.asarray(cvae.sample(LINEAR, exact(), KEY, 20_000))
    np.testing.assert_allclose(anyone.mean(0), SHIFT.mean(0), atol=0.05)


def picture(seed=0, num=4):
    return np.random.default_rng(seed).uniform(-1, 1, (num, 6, 6, 1)).astype(np.float32)


def test_only_the_known_part_is_looked_at_and_it_is_kept():
    state = cvae.method(IMAGES).init(KEY, {"image": picture()})
    same_top, same_bottom = picture(1), picture(1)
    same_top[:, :3], same_bottom[:, 3:] = picture()[:, :3], picture()[:, 3:]
    draw = lambda y: np.asarray(cvae.sample(IMAGES, state.variables, KEY, 4, condition=y))  # noqa: E731
    np.testing.assert_array_equal(draw(picture()), draw(same_top))
    assert not np.allclose(draw(picture())[:, 3:], draw(same_bottom)[:, 3:], atol=1e-6)
    np.testing.assert_array_equal(draw(picture())[:, :3], picture()[:, :3])
    x = cvae.reconstruct(IMAGES, state.variables, picture())
    np.testing.assert_array_equal(x[:, :3], np.where(picture()[:, :3] > 0, 1, -1))


def test_the_class_reaches_encoder_and_decoder():
    cfg = dataclasses.replace(IMAGES, known_region=())
    batch = {"image": picture(), "label": np.array([0, 1, 2, 0])}
    variables = cvae.method(cfg).init(KEY, batch).variables
    z = [
        np.asarray(cvae.encode(cfg, variables, picture(), condition=np.full(4, k))) for k in (0, 1)
    ]
    assert not np.allclose(*z, atol=1e-4)
    x = [np.asarray(cvae.decode(cfg, variables, z[0], condition=np.full(4, k))) for k in (0, 1)]
    assert not np.allclose(*x, atol=1e-5)
    one_hot = np.eye(3, dtype=np.float32)[[1, 1, 1, 1]]
    np.testing.assert_array_equal(cvae.decode(cfg, variables, z[0], condition=one_hot), x[1])


@pytest.mark.parametrize(
    "y", [np.full(2, 4), np.full(2, -1), np.zeros(3, int), np.zeros((2, 3), "f"), np.zeros(2, "f")]
)
def test_a_bad_condition_is_refused(y):
    with pytest.raises(ValueError, match="labels|condition"):
        cvae.sample(LINEAR, exact(), KEY, 2, condition=y)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="label"):
        cvae.method(LINEAR).init(KEY, {"x": np.zeros((2, 3), np.float32)})
    with pytest.raises(ValueError, match="condition has shape"):
        cvae.network_input(IMAGES, np.zeros((2, 3)), 2)
    with pytest.raises(ValueError, match="num = 0"):
        cvae.log_prob(LINEAR, exact(), np.zeros((1, 3), "f"), condition=np.zeros(1, int), num=0)


@pytest.mark.parametrize(
    "change",
    [
        dict(num_classes=0), dict(condition_dim=0), dict(known_region=(0, 7, 0, 6)),
        dict(known_region=(3, 3, 0, 6)),
        dict(known_region=(0, 3)), dict(latent_shape=(3, 3, 1)), dict(beta=-1.0),
    ],
)  # fmt: skip
def test_an_impossible_config_is_refused(change):
    with pytest.raises(ValueError, match=f"Config.{next(iter(change))}"):
        dataclasses.replace(IMAGES, **change)
