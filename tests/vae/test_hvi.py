"""HVI on a linear-Gaussian model, where ln p(x), its gradient and each step are known exactly."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from gengen.compile import compile_step
from gengen.vae import bounds, hvi
from gengen.vae.networks import likelihood

NORMAL: Any = stats.multivariate_normal
KEY = jax.random.key(5)
W = np.array([[1.0, 0.6], [0.2, 1.0], [0.5, -0.4]])
MEAN, SIGMA = np.array([0.3, -0.2, 0.1]), 0.6
CFG = hvi.Config(
    shape=(3,), latent_shape=(2,), hidden=(), scale_mode="fixed",
    initial_scale=SIGMA, num_transitions=2, num_leapfrog_steps=2,
    step_size=0.3, reverse_hidden=(), batch_size=64,
)  # fmt: skip
TRUE_PRECISION = W.T @ W / SIGMA**2 + np.eye(2)


def data(num=64):
    rng = np.random.default_rng(0)
    return (rng.normal(size=(num, 2)) @ W.T + MEAN + SIGMA * rng.normal(size=(num, 3))).astype("f")


def start(cfg):
    """A fresh state whose decoder is x = Wz + μ, and whose ε differ by dimension."""
    state = hvi.method(cfg).init(KEY, {"x": data()})
    params = jax.tree.map(jnp.array, state.params)
    params["decoder"]["MLP_0"]["Dense_0"] = {"kernel": jnp.float32(W.T), "bias": jnp.float32(MEAN)}
    if cfg.num_transitions:
        params["log_steps"] = params["log_steps"] + jnp.array([0.0, -0.4])
    return state.replace(params=params, ema=jax.tree.map(jnp.copy, params))


def gradient64(x, z):
    return (x - MEAN - z @ W.T) @ W / SIGMA**2 - z


def test_the_bound_by_hand():
    """Each draw, gradient, half step and density in float64 NumPy."""
    x, params = data(4), jax.tree.map(np.asarray, start(CFG).params)
    got = hvi.log_weights(CFG, {"params": start(CFG).params}, x, KEY, 1)[0]
    noise_key = jax.random.fold_in(jax.random.split(KEY)[1], 0)
    eps = np.stack([jax.random.normal(jax.random.fold_in(noise_key, i), (3, 2)) for i in range(4)])
    layer = params["encoder"]["MLP_0"]["Dense_0"]
    h = np.float64(x) @ layer["kernel"] + layer["bias"]
    squash = lambda h: 7 * np.tanh(h / 7)  # noqa: E731
    m, log_s = h[:, :2], squash(h[:, 2:])
    log_normal = lambda v, m, s: stats.norm.logpdf(v, m, s).sum(1)  # noqa: E731
    z = m + np.exp(log_s) * eps[:, 0]
    want = -log_normal(z, m, np.exp(log_s))
    for t in range(2):
        step, v = np.exp(np.float64(params["log_steps"][t])), eps[:, 1 + t].astype(np.float64)
        want -= log_normal(v, 0, 1)
        for _ in range(2):
            v = v + step / 2 * gradient64(x, z)
            z = z + step * v
            v = v + step / 2 * gradient64(x, z)
        layer = params[f"reverse_{t}"]["Dense_0"]
        h = np.concatenate([m, log_s, z], 1) @ layer["kernel"] + layer["bias"]
        want += log_normal(v, h[:, :2], np.exp(squash(h[:, 2:])))
    want += log_normal(z, 0, 1) + log_normal(np.float64(x), z @ W.T + MEAN, SIGMA)
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_the_importance_weighted_bound_is_the_log_of_the_mean_weight():
    variables, x = {"params": start(CFG).params}, data(4)
    weights = np.float64(hvi.log_weights(CFG, variables, x, KEY, 5))
    assert weights.std(0).min() > 1e-3
    want = np.log(np.exp(weights).mean(0))
    np.testing.assert_allclose(hvi.log_prob(CFG, variables, x, KEY, num=5), want, rtol=1e-5)


def test_leapfrog_keeps_volumes_and_runs_back():
    x = data(1)
    gradient = lambda z: jnp.sin(3 * z) + jnp.asarray(x[:, :2])  # noqa: E731  not linear
    step = jnp.array([0.3, 0.2])

    def move(zv):
        return jnp.concatenate(hvi.leapfrog(gradient, zv[None, :2], zv[None, 2:], step, 3), 1)[0]

    zv = jnp.array([0.5, -1.0, 0.7, 0.2])
    assert float(jnp.linalg.det(jax.jacobian(move)(zv))) == pytest.approx(1, abs=1e-5)
    turned = move(zv) * jnp.array([1, 1, -1, -1])
    np.testing.assert_allclose(move(turned) * jnp.array([1, 1, -1, -1]), zv, atol=1e-5)
    # and small steps keep the energy
    small = hvi.leapfrog(lambda z: -z, zv[None, :2], zv[None, 2:], 0.01 * jnp.ones(2), 50)
    energy = lambda z, v: float(jnp.sum(z**2) + jnp.sum(v**2))  # noqa: E731
    assert energy(*small) == pytest.approx(energy(zv[:2], zv[2:]), rel=1e-4)


def test_without_transitions_it_is_the_vae():
    """The same densities at the same z."""
    cfg, x = dataclasses.replace(CFG, num_transitions=0), jnp.asarray(data())
    variables, net = {"params": start(cfg).params}, hvi.HVI(cfg)
    z, parts = hvi.path(cfg, variables, x, KEY)
    q: Any = net.apply(variables, x, method="posterior")
    eta: Any = net.apply(variables, z, method="eta")
    want = likelihood(cfg).log_prob(x, eta) + bounds.log_prior(cfg, z) - q.log_prob(z)
    np.testing.assert_allclose(-parts["reconstruction"] - parts["kl"], want, rtol=1e-5)


def trained_gap(T):
    """ln p(x) less the bound: q(z_0|x) is held at N(0, I), the transitions do what they can."""
    cfg, steps = dataclasses.replace(CFG, num_transitions=T, num_leapfrog_steps=3), 2000
    state = start(cfg)
    params = {**state.params, "encoder": jax.tree.map(jnp.zeros_like, state.params["encoder"])}
    held = jax.tree.map_with_path(lambda path, _: path[0].key in ("encoder", "decoder"), params)
    adam = optax.adam(optax.cosine_decay_schedule(3e-2, steps))
    method = hvi.method(cfg, optax.chain(adam, optax.masked(optax.set_to_zero(), held)))
    opt_state = method.init(KEY, {"x": data()}).opt_state
    ema = jax.tree.map(jnp.copy, params)
    state = state.replace(params=params, ema=ema, opt_state=opt_state)
    step = compile_step(method.train_step)
    for _ in range(steps if T else 1):
        state, _ = step(KEY, state, {"x": data()})
    bounds = hvi.log_weights(cfg, state.variables, data(), KEY, 500)
    truth = NORMAL.logpdf(data(), MEAN, W @ W.T + SIGMA**2 * np.eye(3)).mean()
    layer = state.params["decoder"]["MLP_0"]["Dense_0"]
    np.testing.assert_array_equal(layer["kernel"], np.float32(W.T))  # it stood still
    return truth - float(jnp.mean(bounds))


@pytest.mark.slow
def test_more_transitions_close_the_gap():
    """From KL(N(0, I) ‖ p(z|x)), known exactly, towards 0: ln p(x) is approached."""
    m = (data() - MEAN) @ W @ np.linalg.inv(TRUE_PRECISION) / SIGMA**2
    kl = (
        0.5 * (np.trace(TRUE_PRECISION) + np.einsum("bi,ij,bj->b", m, TRUE_PRECISION, m) - 2)
        - 0.5 * np.linalg.slogdet(TRUE_PRECISION)[1]
    )
    gaps = [trained_gap(T) for T in (0, 1, 2, 4)]
    assert gaps[0] == pytest.approx(kl.mean(), rel=0.02)  # 32,000 draws of deviation 6
    # 0.49, 0.30 and 0.06 nats were seen; the mean of 32,000 draws has a standard error of 0.005
    assert gaps[0] > 5 * gaps[1] and gaps[1] > gaps[2] + 0.05 and gaps[2] > gaps[3] + 0.1
    assert -0.02 < gaps[3] < 0.12


def test_samples_and_reconstructions_have_the_shape():
    variables = {"params": start(CFG).params}
    assert hvi.sample(CFG, variables, KEY, 3).shape == (3, 3)
    assert hvi.encode(CFG, variables, data()).shape == (64, 2)
    assert hvi.reconstruct(CFG, variables, data()).shape == (64, 3)
    assert hvi.log_prob(CFG, variables, data(), num=2).shape == (64,)


@pytest.mark.parametrize(
    "change",
    [
        dict(num_transitions=-1),
        dict(num_leapfrog_steps=0),
        dict(step_size=0.0),
        dict(latent_shape=(2, 2, 1)),
        dict(beta=-1),
    ],
)
def test_an_impossible_config_is_refused(change):
    with pytest.raises(ValueError, match=f"Config.{next(iter(change))}"):
        dataclasses.replace(CFG, **change)
