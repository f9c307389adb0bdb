"""ResNet GAN: R1 of a linear D, the averaged weights, the blocks, the paper's shapes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gengen.gan import resnet_gan
from gengen.gan.regularization import r1
from gengen.gan.resnet_gan import Block

CFG = resnet_gan.Config(shape=(4, 4, 1), channels=(2,), latent_dim=3, batch_size=4,
                        learning_rate=1e-4, discriminator_learning_rate=1e-4)  # fmt: skip
X = np.tanh(np.random.default_rng(0).normal(size=(4, 4, 4, 1))).astype(np.float32)


def test_r1_of_a_linear_discriminator_is_weight_decay():
    """½γ‖w‖², and the gradient γw."""
    w = jnp.asarray(np.random.default_rng(1).normal(size=5), jnp.float32)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(3, 5)), jnp.float32)
    penalty = lambda w: r1(10.0).of(lambda x: x @ w, x, x, jax.random.key(0))  # noqa: E731
    value, grad = jax.value_and_grad(penalty)(w)
    np.testing.assert_allclose(float(value), 5 * np.sum(np.float64(w) ** 2), rtol=1e-5)
    np.testing.assert_allclose(grad, 10 * w, rtol=1e-5)


def test_the_average_is_the_recursion_by_hand():
    """e ← d e + (1 - d) w with d = min(decay, (1 + t)/(10 + t)), in float64; RMSProp moves w."""
    method = resnet_gan.method(dataclasses.replace(CFG, ema_decay=0.15, learning_rate=1e-2))
    step = jax.jit(method.train_step)
    state = method.init(jax.random.key(0), {"image": X})
    average = jax.tree.map(np.float64, state.params["generator"])
    for t in range(3):
        state, _ = step(jax.random.key(1), state, {"image": X})
        d = min(0.15, (1 + t) / (10 + t))
        new = state.params["generator"]
        average = jax.tree.map(lambda e, w, d=d: d * e + (1 - d) * np.float64(w), average, new)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
                 state.ema["generator"], average)  # fmt: skip
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), average, state.params["generator"])
    assert max(jax.tree.leaves(moved)) > 1e-4


def test_a_block():
    """The shortcut, and a tenth of the convolutions: 0 where these are 0."""
    block, x = Block(3), jnp.asarray(X[..., :1] * np.ones(3), jnp.float32)
    variables = block.init(jax.random.key(0), x)
    assert {*variables["params"]} == {"Conv_0", "Conv_1"}  # as wide as before: no convolution
    zero = jax.tree.map(jnp.zeros_like, variables)
    np.testing.assert_array_equal(block.apply(zero, x), x)
    # With biases alone: the last one's, a tenth of it.
    biased = {"params": {**zero["params"], "Conv_1": {**zero["params"]["Conv_1"],
                                                      "bias": jnp.arange(3.0)}}}  # fmt: skip
    added = np.broadcast_to(0.1 * np.arange(3), x.shape)
    np.testing.assert_allclose(np.asarray(block.apply(biased, x)) - x, added, atol=1e-6)
    wider = Block(5)
    assert "Conv_2" in wider.init(jax.random.key(0), x)["params"]


def test_the_papers_networks():
    cfg = resnet_gan.Config.paper()
    played = resnet_gan.game(cfg)
    z, x = jnp.zeros((2, 256)), jnp.zeros((2, 128, 128, 3))
    for net, given, wanted in ((played.generator, z, (2, 128, 128, 3)),
                               (played.discriminator, x, (2,))):  # fmt: skip
        variables = jax.eval_shape(net.init, jax.random.key(0), given)
        assert jax.eval_shape(net.apply, variables, given).shape == wanted
        assert {*variables} == {"params"}  # no normalisation
    dense = jax.eval_shape(played.generator.init, jax.random.key(0), z)["params"]["Dense_0"]
    assert dense["kernel"].shape == (256, 4 * 4 * 1024)
    assert [(p.name) for p in played.penalties] == ["r1"]
    assert (cfg.r1, cfg.ema_decay, cfg.b1, cfg.b2) == (10, 0.999, 0, 0.99)


def test_the_optimiser_can_be_adam():
    """RMSProp's first step is the rate / √(1 - 0.99) of each weight, Adam's the rate."""
    for name, size in (("rmsprop", 1e-4 / np.sqrt(0.01)), ("adam", 1e-4)):
        method = resnet_gan.method(dataclasses.replace(CFG, optimizer=name, ema_decay=0.0))
        state = method.init(jax.random.key(0), {"image": X})
        new, _ = jax.jit(method.train_step)(jax.random.key(1), state, {"image": X})
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.params, new.params)
        np.testing.assert_allclose(max(jax.tree.leaves(moved)), size, rtol=1e-2)


def test_an_optimiser_given_takes_its_place():
    method = resnet_gan.method(CFG, optax.set_to_zero())
    state = method.init(jax.random.key(0), {"image": X})
    new, _ = jax.jit(method.train_step)(jax.random.key(1), state, {"image": X})
    jax.tree.map(np.testing.assert_array_equal, state.params, new.params)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(shape=(2,)), "Config.shape"),
        (dict(shape=(9, 8, 1), channels=(4, 8)), "Config.shape"),
        (dict(channels=()), "Config.channels"),
        (dict(optimizer="sgd"), "Config.optimizer"),
        (dict(r1=-1.0), "Config.r1"),
    ],
)
def test_an_impossible_config_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CFG, **change)
