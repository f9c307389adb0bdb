"""Conditions reach training, sampling, encoder and decoder; a missing one is refused."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.compile import compile_step
from gengen.contract import Task
from gengen.data import Dataset, to_batch
from gengen.types import InputError
from gengen.vae import cvae, vqvae_prior

KEY = jax.random.key(0)
LABELS = np.tile(np.arange(2, dtype=np.int32), 32)
VECTORS = cvae.Config(
    shape=(2,), latent_shape=(1,), hidden=(8,), num_classes=2, initial_scale=0.1,
    scale_mode="fixed", learning_rate=3e-2, ema_decay=0.9, batch_size=64,
)  # fmt: skip
REGION = cvae.Config(
    shape=(4, 4, 1), channels=(), hidden=(16,), latent_shape=(2,), known_region=(0, 2, 0, 4),
    condition_dim=8, learning_rate=1e-2, ema_decay=0.9, batch_size=64,
)  # fmt: skip
CODES = vqvae_prior.Config(
    shape=(4, 4, 1), channels=(4,), codebook_size=4, code_dim=2, hidden_channels=4, num_layers=1,
    first_kernel_size=3, head_channels=4, num_classes=2, learning_rate=1e-2, ema_decay=0.9,
    prior_learning_rate=3e-2, batch_size=64,
)  # fmt: skip


def fitted(method, batch, steps):
    state, step = method.init(KEY, batch), compile_step(method.train_step)
    for _ in range(steps):
        state, _ = step(KEY, state, batch)
    return state


def squares(labels):
    """Images that are all black for class 0 and all white for class 1."""
    value = (2 * labels - 1).astype(np.float32)
    return np.broadcast_to(value[:, None, None, None], (len(labels), 4, 4, 1))


@cache
def of_vectors():
    """Each class is one point, (-1, 1) or (1, -1)."""
    x: np.ndarray = ((2 * LABELS - 1)[:, None] * np.array([1, -1])).astype(np.float32)
    return x, fitted(cvae.method(VECTORS), {"x": x, "label": LABELS}, 300).variables


def test_cvae_samples_are_of_the_class_that_is_asked_for():
    _, variables = of_vectors()
    y = np.arange(20, dtype=np.int32) % 2
    x = np.asarray(cvae.sample(VECTORS, variables, KEY, 20, condition=y, mean=True))
    np.testing.assert_array_equal(x[:, 0] > 0, y == 1)
    np.testing.assert_array_equal(x[:, 1] > 0, y == 0)


def test_cvae_densities_and_decoder_depend_on_the_class():
    x, variables = of_vectors()
    right = cvae.log_prob(VECTORS, variables, x, condition=LABELS, num=8)
    wrong = cvae.log_prob(VECTORS, variables, x, condition=1 - LABELS, num=8)
    assert np.mean(right) > np.mean(wrong) + 5
    bounds = [cvae.elbo(VECTORS, variables, x, KEY, condition=y) for y in (LABELS, 1 - LABELS)]
    assert np.mean(bounds[0]) > np.mean(bounds[1]) + 5
    z = [cvae.encode(VECTORS, variables, x, condition=y) for y in (LABELS, 1 - LABELS)]
    assert not np.allclose(*z, atol=1e-4)
    back = cvae.decode(VECTORS, variables, z[0], condition=1 - LABELS)
    np.testing.assert_array_equal(np.sign(back), np.sign(-x))


def test_what_cvae_is_conditioned_on():
    np.testing.assert_array_equal(cvae.condition_of(VECTORS, {"label": LABELS}), LABELS)
    image = np.random.default_rng(0).uniform(-1, 1, (3, 4, 4, 1)).astype(np.float32)
    binary = cvae.condition_of(REGION, {"image": image})
    np.testing.assert_array_equal(binary, np.where(image > 0, 1, -1))
    grey = dataclasses.replace(REGION, likelihood="gaussian")
    np.testing.assert_array_equal(cvae.condition_of(grey, {"image": image}), image)


@cache
def of_regions():
    batch = {"image": squares(LABELS), "label": LABELS}
    return fitted(cvae.method(REGION), batch, 200).variables


def test_the_known_region_decides_the_rest():
    """Black upper halves have black lower halves in the data, white ones white ones."""
    y = np.arange(8, dtype=np.int32) % 2
    x = np.asarray(cvae.sample(REGION, of_regions(), KEY, 8, condition=squares(y)))
    np.testing.assert_array_equal(x[:, 2:].mean((1, 2, 3)) > 0, y == 1)


def test_a_missing_condition_is_refused():
    variables = cvae.method(REGION).init(KEY, {"image": squares(LABELS)}).variables
    with pytest.raises(InputError, match="conditioned on a known region"):
        cvae.sample(REGION, variables, KEY, 2)
    with pytest.raises(InputError, match="conditioned on a known region"):
        cvae.decode(REGION, variables, np.zeros((2, 2)))
    with pytest.raises(InputError, match="conditioned on a class"):
        cvae.encode(VECTORS, {}, np.zeros((2, 2), np.float32))


@cache
def of_codes():
    """Both stages, on images whose codes are a function of the class."""
    codec, prior = vqvae_prior.stages(CODES)
    image = (127.5 * (squares(LABELS) + 1)).astype(np.uint8)
    arrays: dict[str, np.ndarray] = {"image": image, "label": LABELS}
    data = Dataset("squares", arrays)
    rows = np.arange(64, dtype=np.int32)
    before = {"codec": fitted(codec.method, to_batch(data.arrays, rows), 100)}
    codes = prior.data(before, data)
    assert isinstance(codes, Dataset)
    batch = {name: jnp.asarray(array) for name, array in codes.arrays.items()}
    return {
        "codec": before["codec"].variables,
        "prior": fitted(prior.method, batch, 100).variables,
    }


def test_vqvae_prior_samples_are_of_the_class_that_is_asked_for():
    y = np.arange(8, dtype=np.int32) % 2
    x = np.asarray(vqvae_prior.sample(CODES, of_codes(), KEY, 8, condition=y))
    np.testing.assert_array_equal(x.mean((1, 2, 3)) > 0, y == 1)


def test_vqvae_prior_densities_depend_on_the_class():
    x, variables = squares(LABELS), of_codes()
    right = vqvae_prior.log_prob(CODES, variables, x, condition=LABELS)
    wrong = vqvae_prior.log_prob(CODES, variables, x, condition=1 - LABELS)
    assert np.mean(right) > np.mean(wrong) + 1
    with pytest.raises(InputError, match="num_classes = 2"):
        vqvae_prior.log_prob(CODES, variables, x, condition=LABELS + 1)


@pytest.mark.parametrize("shape", [(8, 8, 1), (16, 16, 3), (7, 5, 3), (2,), (64,)])
def test_defaults_of_cvae_for_given_data(shape):
    cfg = cvae.Config.for_task(Task(shape, 3))
    assert cfg.shape == shape and cfg.num_classes == 3 and not cfg.known_region
    assert cfg.likelihood == ("logistic" if shape[-1] == 3 else "")
    if len(shape) == 1:
        with pytest.raises(InputError, match="without|no labels"):
            cvae.Config.for_task(Task(shape))
    else:
        assert cvae.Config.for_task(Task(shape)).known_region == (0, shape[0] // 2, 0, shape[1])
