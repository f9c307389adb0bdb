"""Contract of the family: labels, own networks, the papers' Configs, defaults for any data."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.contract import Task, default_config
from gengen.errors import InputError
from gengen.gan import (
    adagan,
    cgan,
    dcgan,
    gan,
    lsgan,
    minibatch,
    networks,
    progressive,
    regularization,
    replay,
    resnet_gan,
    tempered,
    wgan,
    wgan_gp,
)
from gengen.optim import learning_rate

GAMES = [cgan, dcgan, gan, lsgan, minibatch, regularization, replay, resnet_gan, tempered, wgan,
         wgan_gp]  # fmt: skip
MODELS = [*GAMES, adagan, progressive]
IMAGES_ONLY = (dcgan, progressive, resnet_gan)
SHAPES = [(8, 8, 1), (16, 16, 3), (28, 28, 1), (7, 5, 3), (2,), (64,)]


def named(modules):
    return pytest.mark.parametrize("model", modules, ids=lambda m: m.__name__.split(".")[-1])


def batch_of(cfg, num=None):
    num = num or cfg.batch_size
    x = np.random.default_rng(0).normal(size=(num, *cfg.shape)).astype(np.float32)
    name = "image" if len(cfg.shape) == 3 else "x"
    return {name: np.tanh(x), "label": (np.arange(num) % 3).astype(np.int32)}


def first_method(model, cfg, **settings):
    if hasattr(model, "stages"):
        return model.stages(cfg)[0].method
    return model.method(cfg, **settings)


def traces(method, batch):
    state = jax.eval_shape(method.init, jax.random.key(0), batch)
    jax.eval_shape(method.train_step, jax.random.key(0), state, batch)
    return state


@named(MODELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_default_takes_any_data(model, shape):
    """Odd sizes and vectors too; what a model cannot take is refused with a cure."""
    task = Task(shape, num_classes=3, steps=100)
    if (model in IMAGES_ONLY and len(shape) == 1) or (model is dcgan and shape[0] % 2):
        with pytest.raises(InputError, match="use "):
            default_config(model.Config, task)
        return
    cfg = default_config(model.Config, task)
    assert cfg.shape == shape
    traces(first_method(model, cfg), batch_of(cfg))


@named(MODELS)
def test_an_accelerator_takes_larger_networks_of_the_same_kind(model):
    small, large = (
        default_config(model.Config, Task((32, 32, 3), 3, accelerator=device))
        for device in (False, True)
    )
    assert sum(large.channels) > sum(small.channels)
    same = {"learning_rate", "loss", "b1"} & {field.name for field in dataclasses.fields(small)}
    assert all(getattr(small, name) == getattr(large, name) for name in same)


def test_levels_halve_the_sides():
    assert networks.levels((28, 28, 1), 32) == (32, 64)
    assert networks.levels((8, 8, 1), 32) == (32, 64)
    assert networks.levels((64, 64, 3), 64) == (64, 128, 256, 512)
    assert networks.levels((6, 12, 1), 32) == (32,)
    assert networks.levels((7, 5, 3), 32) == ()


def test_learning_rates_decay_to_the_floor():
    cfg = gan.Config(shape=(2,), decay_steps=10, learning_rate=1e-2)
    rate = learning_rate(cfg)
    assert callable(rate)
    found = [float(jnp.asarray(rate(t))) for t in (0, 5, 10, 50)]
    np.testing.assert_allclose(found, [1e-2, 0.51e-2, 2e-4, 2e-4], rtol=1e-5)
    assert learning_rate(dataclasses.replace(cfg, decay_steps=0)) == 1e-2


class Affine(nn.Module):
    """A generator of one's own."""

    size: int = 2

    @nn.compact
    def __call__(self, z, y=None, train=False):
        return nn.Dense(self.size, name="own")(z)


class Quadratic(nn.Module):
    """A discriminator of one's own."""

    @nn.compact
    def __call__(self, x, y=None, train=False):
        return nn.Dense(1, name="own")(jnp.concatenate([x, x**2], axis=1))[:, 0]


def own_network_cases():
    """Those of two models are fast tests."""
    for m in GAMES:
        if m not in IMAGES_ONLY:
            mark = () if m in (gan, wgan) else pytest.mark.slow
            yield pytest.param(m, marks=mark, id=m.__name__.split(".")[-1])


@pytest.mark.parametrize("model", list(own_network_cases()))
def test_networks_of_ones_own_train_and_sample(model):
    sizes = {"critic_batch_size": 4, "n_critic": 1} if model is wgan else {"batch_size": 12}
    cfg, net = model.Config(shape=(2,), latent_dim=3, **sizes), (Affine(), Quadratic())
    method, batch = model.method(cfg, net=net), batch_of(cfg)
    state = method.init(jax.random.key(0), batch)
    second = "critic" if model is wgan else "discriminator"
    assert {*state.params["generator"]} == {*state.params[second]} == {"own"}
    new, metrics = jax.jit(method.train_step)(jax.random.key(1), state, batch)
    assert np.isfinite(float(metrics["generator_loss"]))
    kernels = [s.params["generator"]["own"]["kernel"] for s in (state, new)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0
    x = model.sample(cfg, new.variables, jax.random.key(2), 5, net=net)
    z = np.asarray(jax.random.normal(jax.random.fold_in(jax.random.key(2), 0), (3,)))
    own = new.variables["params"]["generator"]["own"]
    np.testing.assert_allclose(x[0], z @ own["kernel"] + own["bias"], rtol=1e-4, atol=1e-5)


@named([m for m in MODELS if m is not cgan])
def test_unconditional_models_ignore_labels_and_refuse_conditions(model):
    cfg = model.Config()
    assert model.condition_of(cfg, batch_of(cfg, 2)) is None
    with pytest.raises(InputError, match="condition"):
        model.sample(cfg, {"params": {}}, jax.random.key(0), 2, condition=np.zeros(2, np.int32))


def test_labels_condition_training_and_sampling():
    cfg = cgan.Config(shape=(2,), hidden=(8,), latent_dim=2, num_classes=3, batch_size=6)
    method, batch = cgan.method(cfg), batch_of(cfg)
    np.testing.assert_array_equal(cgan.condition_of(cfg, batch), batch["label"])
    state, step = method.init(jax.random.key(0), batch), jax.jit(method.train_step)
    other = {**batch, "label": (batch["label"] + 1) % 3}
    a, b = (step(jax.random.key(1), state, each)[0].params for each in (batch, other))
    for name in a:
        pairs = zip(jax.tree.leaves(a[name]), jax.tree.leaves(b[name]), strict=True)
        assert any(np.abs(x - y).max() > 1e-6 for x, y in pairs), name
    x, y = (
        cgan.sample(cfg, state.variables, jax.random.key(2), 4, condition=np.full(4, k))
        for k in (0, 2)
    )
    assert np.abs(x - y).max() > 1e-4
