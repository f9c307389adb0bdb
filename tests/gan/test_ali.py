"""ALI: the encoder becomes the posterior of a decoder that is known; who moves; the losses."""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.compile import compile_step
from gengen.distributions import Normal
from gengen.gan import ali
from gengen.types import InputError

W = np.array([[1.0, 0.5], [-0.6, 0.8], [0.3, 0.9]])
SIGMA = 0.7
CFG = ali.Config(shape=(3,), latent_dim=2, hidden=(8,), discriminator_hidden=(8,), feature_dim=4,
                 batch_size=8)  # fmt: skip


class Truth(nn.Module):
    """p(x|z) = N(Wz, σ²I): without a parameter, so it stays."""

    @nn.compact
    def __call__(self, z, train=False):
        mean = z @ jnp.asarray(W.T, jnp.float32)
        return Normal(mean, jnp.full_like(mean, np.log(SIGMA)))


class Linear(nn.Module):
    """q(z|x) with a mean that is linear in x, and one full covariance."""

    @nn.compact
    def __call__(self, x):
        mean = nn.Dense(2)(x)
        raw = jnp.asarray(self.param("raw", nn.initializers.zeros, (3,)))
        log_std = jnp.broadcast_to(raw[:2], mean.shape)
        lower = jnp.zeros((len(x), 2, 2)).at[:, 1, 0].set(raw[2])
        return Normal(mean, log_std, lower)


class Quadratic(nn.Module):
    """A D that is linear in x, z and their products: it has the log ratio of two Gaussians."""

    @nn.compact
    def __call__(self, x, z):
        xz = jnp.concatenate([x, z], axis=1)
        rows, columns = np.triu_indices(5)
        both = jnp.concatenate([xz, xz[:, rows] * xz[:, columns]], axis=1)
        return nn.Dense(1, kernel_init=nn.initializers.zeros)(both)[:, 0]


def data(num: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    z = draw.normal(size=(num, 2))
    return (z @ W.T + SIGMA * draw.normal(size=(num, 3))).astype(np.float32)


def test_the_encoder_becomes_the_posterior_of_a_known_decoder():
    """Mean M⁻¹Wᵀx, covariance σ²M⁻¹, M = WᵀW + σ²I, each within 5 %."""
    cfg = ali.Config(shape=(3,), latent_dim=2, batch_size=1000, learning_rate=3e-3,
                     discriminator_learning_rate=1e-2, b1=0.0, b2=0.99,
                     ema_decay=0.998)  # fmt: skip
    net = (Truth(), Linear(), Quadratic())
    method = ali.method(cfg, net=net)
    x = data(1000, 0)
    state = method.init(jax.random.key(0), {"x": x})
    step = compile_step(method.train_step)
    for i in range(2000):
        state, _ = step(jax.random.key(1), state, {"x": data(1000, i + 1)})
    q = ali.posterior(cfg, {"params": state.ema}, x, net=net)
    assert q.lower is not None
    M = W.T @ W + SIGMA**2 * np.eye(2)
    wanted, cov = x @ W @ np.linalg.inv(M), SIGMA**2 * np.linalg.inv(M)
    L = np.asarray(q.lower[0]) + np.diag(np.exp(np.asarray(q.log_std[0])))
    assert np.linalg.norm(q.mean - wanted) < 0.05 * np.linalg.norm(wanted)
    assert np.linalg.norm(L @ L.T - cov) < 0.05 * np.linalg.norm(cov)


def test_the_losses_by_hand():
    on_data, on_samples = np.random.default_rng(0).normal(size=(2, 6))
    soft = lambda x: np.log1p(np.exp(x)).mean()  # noqa: E731
    wanted = soft(on_data) + soft(-on_samples)
    found = ali.inference_loss(jnp.asarray(on_data), jnp.asarray(on_samples))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("still", ["discriminator", "both"])
def test_a_step_of_one_side_leaves_the_other_as_it_is(still):
    slow = "discriminator_learning_rate" if still == "discriminator" else "learning_rate"
    rate: dict[str, Any] = {slow: 1e-30}
    cfg = ali.Config(shape=(3,), latent_dim=2, hidden=(8,), batch_size=8, **rate)
    method = ali.method(cfg)
    first = method.init(jax.random.key(0), {"x": data(8, 0)})
    last, _ = jax.jit(method.train_step)(jax.random.key(1), first, {"x": data(8, 0)})
    members = {"discriminator": ("discriminator",), "both": ("generator", "encoder")}
    for name in ("discriminator", "generator", "encoder"):
        pair = first.params[name], last.params[name]
        if name in members[still]:
            chex.assert_trees_all_close(*pair, rtol=0, atol=1e-29)
        else:
            same = jax.tree.map(lambda a, b: bool(np.all(a == b)), *pair)
            assert not all(jax.tree.leaves(same)), name


def test_a_reconstruction_is_the_decoded_encoding():
    state = ali.method(CFG).init(jax.random.key(0), {"x": data(8, 0)})
    variables = state.variables
    x = data(5, 1)
    z = ali.encode(CFG, variables, x)
    assert z.shape == (5, 2) and np.abs(z[0] - z[1]).max() > 1e-3
    np.testing.assert_array_equal(ali.reconstruct(CFG, variables, x), ali.decode(CFG, variables, z))


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="feature_dim"):
        ali.Config(feature_dim=0)
    with pytest.raises(InputError, match="r1"):
        ali.Config(r1=-1.0)
    state = ali.method(CFG).init(jax.random.key(0), {"x": data(8, 0)})
    with pytest.raises(InputError, match="latent_dim = 2"):
        ali.decode(CFG, state.variables, np.zeros((1, 3)))
