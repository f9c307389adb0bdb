"""DCGAN: the paper's shapes, where batch norm is and is not, and no dense layer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen import rng
from gengen.gan import dcgan
from gengen.gan.game import apply, generate

PAPER = dcgan.Config.paper()


def shapes(net, given):
    """Variables, and the output shape of every layer by its name."""
    variables = jax.eval_shape(net.init, jax.random.key(0), given)

    def run(variables, given):
        return net.apply(variables, given, capture_intermediates=True)

    out, state = jax.eval_shape(run, variables, given)
    found = {name: layer["__call__"][0].shape for name, layer in state["intermediates"].items()
             if name != "__call__"}  # fmt: skip
    return variables["params"], found, out.shape


def test_the_papers_generator():
    params, found, out = shapes(dcgan.game(PAPER).generator, jnp.zeros((2, 100)))
    sizes = [(4, 1024), (8, 512), (16, 256), (32, 128), (64, 3)]
    for i, (size, features) in enumerate(sizes):
        assert found[f"ConvTranspose_{i}"] == (2, size, size, features)
    assert out == (2, 64, 64, 3)
    norms = [found[name][1:3] for name in found if name.startswith("BatchNorm")]
    assert norms == [(4, 4), (8, 8), (16, 16), (32, 32)]  # none on what is put out
    assert not any("Dense" in name for name in params)


def test_the_papers_discriminator():
    params, found, out = shapes(dcgan.game(PAPER).discriminator, jnp.zeros((2, 64, 64, 3)))
    sizes = [(32, 128), (16, 256), (8, 512), (4, 1024), (1, 1)]
    for i, (size, features) in enumerate(sizes):
        assert found[f"Conv_{i}"] == (2, size, size, features)
    assert out == (2,)
    norms = [found[name][1:3] for name in found if name.startswith("BatchNorm")]
    assert norms == [(16, 16), (8, 8), (4, 4)]  # none on the first layer's output
    assert not any("Dense" in name for name in params)


def test_weights_begin_as_the_paper_says():
    """N(0, 0.02²): of a kernel of n weights the deviation is within 4/√(2n) of it, in shares."""
    cfg = dcgan.Config(channels=(32, 64), latent_dim=100)
    played = dcgan.game(cfg)
    for net, given in ((played.generator, jnp.zeros((1, 100))),
                       (played.discriminator, jnp.zeros((1, 28, 28, 1)))):  # fmt: skip
        params = jax.jit(net.init)(jax.random.key(0), given)["params"]
        kernels = [layer["kernel"] for layer in params.values() if "kernel" in layer]
        assert len(kernels) == 3
        for kernel in kernels:
            share = np.std(np.float64(kernel)) / 0.02
            assert abs(share - 1) < 4 / np.sqrt(2 * kernel.size)


def test_the_papers_numbers():
    assert (PAPER.latent_dim, PAPER.batch_size, PAPER.b1) == (100, 128, 0.5)
    assert PAPER.learning_rate == PAPER.discriminator_learning_rate == 2e-4


def test_activations():
    """LeakyReLU in g lets negative numbers through: the same weights give other images."""
    cfg = dcgan.Config(shape=(8, 8, 1), channels=(4, 8), latent_dim=4)
    z = jax.random.normal(jax.random.key(1), (3, 4))
    nets = [dcgan.game(dataclasses.replace(cfg, activation=name)).generator
            for name in dcgan.ACTIVATIONS]  # fmt: skip
    variables = nets[0].init(jax.random.key(0), z)
    a, b = (np.asarray(net.apply(variables, z)) for net in nets)
    assert np.abs(a - b).max() > 1e-6 and np.abs(a).max() <= 1


def test_batch_norm_sees_real_and_generated_apart():
    """The running mean after a step is 0.99 · 0.01 m(real) + 0.01 m(generated), by two calls."""
    cfg = dcgan.Config(shape=(8, 8, 1), channels=(4, 8), latent_dim=4, batch_size=4)
    played, method, key = dcgan.game(cfg), dcgan.method(cfg), jax.random.key(1)
    real = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 1)), jnp.float32)
    state = method.init(jax.random.key(0), {"image": real})
    new, _ = jax.jit(method.train_step)(key, state, {"image": real})
    before = {"params": state.params, **state.mutables}

    def running_mean(mutables):
        return np.asarray(mutables["batch_stats"]["discriminator"]["BatchNorm_0"]["mean"])

    def after(x):
        return running_mean(apply(played.discriminator, "discriminator", before, x)[1])

    z_key = jax.random.split(jax.random.split(jax.random.fold_in(key, 0))[0], 3)[0]
    fake, _ = generate(played, before, rng.normal(z_key, (4, 4)))
    both = 0.99 * after(real) + after(fake)
    np.testing.assert_allclose(running_mean(new.mutables), both, atol=1e-7)
    assert np.abs(after(real) - after(fake)).max() > 1e-5


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(shape=(30, 28, 1)), "Config.shape"),
        (dict(shape=(2,)), "Config.shape"),
        (dict(channels=()), "Config.channels"),
        (dict(activation="elu"), "Config.activation"),
    ],
)
def test_an_impossible_config_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(dcgan.Config(), **change)
