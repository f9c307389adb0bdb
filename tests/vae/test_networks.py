"""A user's own network trains, samples and scores in the place of the Config's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.contract import Task
from gengen.distributions import Normal
from gengen.types import InputError
from gengen.vae import cvae, hvi, vae, vqvae, vqvae_prior

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
Y = np.arange(8, dtype=np.int32) % 2


class Own(nn.Module):
    """A linear VAE, with or without y, of other parameters than gengen's."""

    def setup(self):
        self.inner, self.outer = nn.Dense(2), nn.Dense(3)

    def posterior(self, x, *y):
        return Normal(self.inner(jnp.concatenate([x, *y], 1)), jnp.zeros((len(x), 2)))

    def eta(self, z, *y):
        mean = self.outer(jnp.concatenate([z, *y], 1))
        return jnp.concatenate([mean, jnp.zeros_like(mean)], 1)

    def __call__(self, x, *y):
        return self.eta(self.posterior(x, *y).mean, *y)


class OwnCodes(nn.Module):
    def setup(self):
        self.inner, self.outer = nn.Dense(4), nn.Dense(6)

    def z_e(self, x):
        return self.inner(x).reshape(-1, 2, 2)

    def eta(self, z_q):
        return self.outer(z_q.reshape(len(z_q), -1))

    def __call__(self, x):
        return self.eta(self.z_e(x))


def after_a_step(method, batch):
    state = method.init(KEY, batch)
    after, _ = method.train_step(KEY, state, batch)
    assert set(state.params) == {"inner", "outer"}
    assert not np.array_equal(after.params["inner"]["kernel"], state.params["inner"]["kernel"])
    return after.variables


def test_a_vae_with_ones_own_network():
    cfg, net = vae.Config(shape=(3,), latent_shape=(2,)), Own()
    variables = after_a_step(vae.method(cfg, net=net), {"x": X})
    z = vae.encode(cfg, variables, X, net=net)
    layer = variables["params"]["inner"]
    np.testing.assert_allclose(z, X @ layer["kernel"] + layer["bias"], atol=1e-5)
    assert vae.decode(cfg, variables, z, net=net).shape == (8, 3)
    assert vae.reconstruct(cfg, variables, X, net=net).shape == (8, 3)
    assert vae.sample(cfg, variables, KEY, 4, net=net).shape == (4, 3)
    assert vae.log_prob(cfg, variables, X, num=2, net=net).shape == (8,)
    assert vae.elbo(cfg, variables, X, KEY, net=net).shape == (8,)
    known = np.array([True, False, True])
    filled = vae.impute(cfg, variables, X, known, KEY, steps=2, net=net)
    np.testing.assert_array_equal(filled[:, known], X[:, known])


def test_a_cvae_with_ones_own_network():
    cfg, net = cvae.Config(shape=(3,), latent_shape=(2,), num_classes=2), Own()
    variables = after_a_step(cvae.method(cfg, net=net), {"x": X, "label": Y})
    z = cvae.encode(cfg, variables, X, condition=Y, net=net)
    assert cvae.decode(cfg, variables, z, condition=Y, net=net).shape == (8, 3)
    assert cvae.reconstruct(cfg, variables, X, condition=Y, net=net).shape == (8, 3)
    assert cvae.sample(cfg, variables, KEY, 8, condition=Y, net=net).shape == (8, 3)
    assert cvae.log_prob(cfg, variables, X, condition=Y, num=2, net=net).shape == (8,)
    assert cvae.elbo(cfg, variables, X, KEY, condition=Y, net=net).shape == (8,)


def test_a_vqvae_with_ones_own_network():
    cfg, net = vqvae.Config(shape=(3,), num_codes=2, code_dim=2, codebook_size=4), OwnCodes()
    variables = after_a_step(vqvae.method(cfg, net=net), {"x": X})
    assert vqvae.codes(cfg, variables, X, net=net).shape == (8, 2)
    assert vqvae.reconstruct(cfg, variables, X, net=net).shape == (8, 3)
    assert vqvae.log_prob(cfg, variables, X, net=net).shape == (8,)
    by_gradient = vqvae.Config(shape=(3,), num_codes=2, code_dim=2, codebook_decay=0.0)
    with pytest.raises(InputError, match="codebook_decay"):
        vqvae.method(by_gradient, net=net)


@pytest.mark.parametrize("module", [vae, hvi, vqvae])
@pytest.mark.parametrize("shape", [(8, 8, 1), (16, 16, 3), (7, 5, 3), (2,), (64,)])
def test_the_default_fits_the_data(module, shape):
    cfg = module.Config.for_task(Task(shape))
    batch = {"image" if len(shape) == 3 else "x": np.zeros((2, *shape), np.float32)}
    method = module.method(cfg)
    jax.eval_shape(method.train_step, KEY, jax.eval_shape(method.init, KEY, batch), batch)
    colour = len(shape) == 3 and shape[-1] == 3
    assert (cfg.likelihood in ("logistic", "gaussian")) == colour


@pytest.mark.parametrize("module", [vae, cvae, hvi, vqvae])
def test_the_papers_networks_can_be_traced(module):
    cfg = module.Config.paper()
    assert type(cfg) is module.Config
    batch = {"image": np.zeros((2, *cfg.shape), np.float32), "label": np.zeros(2, np.int32)}
    method = module.method(cfg)
    jax.eval_shape(method.train_step, KEY, jax.eval_shape(method.init, KEY, batch), batch)


def test_codes_of_vectors_have_no_prior():
    assert type(vqvae_prior.Config.paper()) is vqvae_prior.Config
    assert len(vqvae_prior.stages(vqvae_prior.Config.paper())) == 2
    with pytest.raises(InputError, match="vectors"):
        vqvae_prior.Config.for_task(Task((2,)))
