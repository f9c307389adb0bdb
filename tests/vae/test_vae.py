"""The VAE where everything is known: linear networks, whose best likelihood is that of PPCA."""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gengen import distributions as dist
from gengen.compile import compile_step
from gengen.density import ppca
from gengen.vae import bounds, networks, vae

LINEAR = vae.Config(shape=(5,), latent_shape=(2,), hidden=(), batch_size=200)
SMALL = vae.Config(shape=(6, 6, 1), channels=(4,), hidden=(8,), latent_shape=(3,), batch_size=8)
KEY = jax.random.key(3)


def data(num=200, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num, 2)) * [2.0, 1.0] @ rng.normal(size=(2, 5))
    return 0.3 * (x + 0.5 * rng.normal(size=(num, 5)) + [1, 0, -1, 2, 0]).astype(np.float32)


X = data()
PPCA = ppca.Config(shape=(5,), latent_dim=2)
PARAMS = ppca.fit(PPCA, X, jax.random.key(0))["params"]
TURN = np.array([[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]])  # p(x) stays as it is


def exact(covariance="diagonal", turn=None):
    """A linear VAE whose p(x) is that of PPCA and whose q(z|x) is its true posterior."""
    W = np.asarray(PARAMS["W"], np.float64) @ (np.eye(2) if turn is None else turn)
    mean, variance = np.asarray(PARAMS["mean"], np.float64), float(PARAMS["variance"])
    M = W.T @ W + variance * np.eye(2)
    L = np.linalg.cholesky(variance * np.linalg.inv(M))
    gain = np.linalg.solve(M, W.T)
    below = [L[1, 0]] if covariance == "full" else []
    log_std = vae.MAX_LOG_STD * np.arctanh(np.log(np.diag(L)) / vae.MAX_LOG_STD)
    bias = np.concatenate([-gain @ mean, log_std, below])
    kernel = np.zeros((5, len(bias)))
    kernel[:, :2] = gain.T
    cfg = dataclasses.replace(LINEAR, covariance=covariance)
    params = {
        "encoder": {"MLP_0": {"Dense_0": {"kernel": kernel, "bias": bias}}},
        "decoder": {"MLP_0": {"Dense_0": {"kernel": W.T, "bias": mean}}},
        "head": {"log_scale": np.log(np.sqrt(variance) - cfg.min_scale)},
    }
    shapes = jax.eval_shape(vae.method(cfg).init, KEY, {"x": X}).params
    params = jax.tree.map(lambda p, like: jnp.asarray(p, like.dtype), params, shapes)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda p: p.shape, shapes)
    return cfg, {"params": params}


@pytest.mark.parametrize("covariance, turn", [("diagonal", None), ("full", TURN)])
def test_with_the_true_posterior_every_weight_is_the_likelihood(covariance, turn):
    """ln p(x, z) - ln q(z|x) = ln p(x) whatever z: each term, sign and Jacobian counts."""
    cfg, variables = exact(covariance, turn)
    want = np.asarray(ppca.log_prob(PPCA, {"params": PARAMS}, X))
    got = vae.log_weights(cfg, variables, X, KEY, 3)
    np.testing.assert_allclose(got, np.tile(want, (3, 1)), atol=1e-3)  # float32 terms of 100 or so
    np.testing.assert_allclose(vae.log_prob(cfg, variables, X, KEY, num=3), want, atol=1e-3)
    means = [vae.elbo(cfg, variables, X, jax.random.key(i)) for i in range(200)]
    # The closed-form KL and a drawn reconstruction term: right in the mean.
    error = np.mean(means, axis=0) - want
    assert np.abs(error).max() < 5 * np.std(means, axis=0).max() / 200**0.5
    assert abs(error.mean()) < 0.01  # 40,000 draws of deviation 1


def test_a_diagonal_posterior_of_a_turned_code_loses_the_known_gap():
    """KL(diagonal ‖ true) in closed form: the bound is lower by it, for every x."""
    cfg, variables = exact("diagonal", TURN)
    W = np.asarray(PARAMS["W"], np.float64) @ TURN
    true = np.linalg.inv(W.T @ W / float(PARAMS["variance"]) + np.eye(2))
    diagonal = np.diag(np.diag(np.linalg.cholesky(true)) ** 2)
    ratio = np.linalg.solve(true, diagonal)
    gap = 0.5 * (np.trace(ratio) - 2 - np.linalg.slogdet(ratio)[1])
    assert gap > 0.05
    want = np.asarray(ppca.log_prob(PPCA, {"params": PARAMS}, X)).mean()
    got = [float(vae.elbo(cfg, variables, X, jax.random.key(i)).mean()) for i in range(100)]
    assert want - np.mean(got) == pytest.approx(gap, abs=float(4 * np.std(got) / 10))


def test_importance_weighting_tightens_the_bound():
    """ELBO ≤ bound of 2 ≤ of 8 ≤ of 64 ≤ ln p(x), in the mean over 200 examples."""
    cfg, variables = exact("diagonal", TURN)
    truth = float(jnp.mean(ppca.log_prob(PPCA, {"params": PARAMS}, X)))
    bounds = [float(jnp.mean(vae.elbo(cfg, variables, X, KEY)))]
    bounds += [float(jnp.mean(vae.log_prob(cfg, variables, X, KEY, num=num))) for num in (2, 8, 64)]
    assert bounds == sorted(bounds)
    assert bounds[0] < truth - 0.05 and truth - 0.02 < bounds[-1] < truth + 0.02


def test_a_linear_vae_learns_what_ppca_knows():
    """Within 0.05 nats of the exact maximum of the likelihood, from random weights."""
    method = vae.method(LINEAR, optax.adam(optax.cosine_decay_schedule(3e-2, 5000)))
    state, step = method.init(jax.random.key(0), {"x": X}), compile_step(method.train_step)
    for _ in range(5000):
        state, metrics = step(KEY, state, {"x": X})
    best = float(jnp.mean(ppca.log_prob(PPCA, {"params": PARAMS}, X)))
    bounds = [np.mean(vae.elbo(LINEAR, state.variables, X, jax.random.key(i))) for i in range(50)]
    assert best - 0.05 < np.mean(bounds) < best + 0.01  # the last: 10,000 draws
    found = vae.log_prob(LINEAR, state.variables, X, KEY, num=64).mean()
    assert float(found) == pytest.approx(best, abs=0.05)
    # and draws have the data's covariance
    x = np.asarray(vae.sample(LINEAR, state.variables, KEY, 20_000))
    C = np.cov(X.T, ddof=0)
    assert np.abs(np.cov(x.T) - C).max() < 0.08 * C.max()  # C itself differs from S by its noise


def test_imputation_draws_from_the_conditional():
    """With the true posterior the chain's law is p(missing | known), a Gaussian known exactly."""
    cfg, variables = exact()
    W = np.asarray(PARAMS["W"], np.float64)
    C = W @ W.T + float(PARAMS["variance"]) * np.eye(5)
    mean, known = np.asarray(PARAMS["mean"], np.float64), np.array([True, False, True, True, False])
    x = np.tile(X[:1], (4000, 1))
    x[:, ~known] = 99.0  # must not matter
    got = np.asarray(vae.impute(cfg, variables, x, known, KEY, steps=60))
    np.testing.assert_array_equal(got[:, known], x[:, known])
    A = C[np.ix_(~known, known)] @ np.linalg.inv(C[np.ix_(known, known)])
    want = mean[~known] + A @ (X[0, known] - mean[known])
    spread = C[np.ix_(~known, ~known)] - A @ C[np.ix_(known, ~known)]
    missing = got[:, ~known]
    np.testing.assert_allclose(missing.mean(0), want, atol=5 * (spread.max() / 4000) ** 0.5)
    np.testing.assert_allclose(np.cov(missing.T), spread, atol=0.12 * spread.max())  # 5 √(2/4000)


def test_imputed_images_keep_what_is_known():
    state = vae.method(SMALL).init(KEY, {"image": images()})
    mask = np.zeros((6, 6, 1), bool)
    mask[:3] = True
    got = np.asarray(vae.impute(SMALL, state.variables, images(), mask, KEY, steps=3))
    np.testing.assert_array_equal(got[:, :3], images()[:, :3])
    assert np.abs(got).max() <= 1 and not np.allclose(got[:, 3:], images()[:, 3:])


def images(num=8):
    return np.random.default_rng(0).uniform(-1, 1, (num, 6, 6, 1)).astype(np.float32)


def test_dynamic_binarisation_draws_pixels_with_the_grey_value_as_probability():
    x = jnp.asarray(np.broadcast_to(images(1), (20_000, 6, 6, 1)))
    b = np.asarray(vae.observed(SMALL, x, KEY))
    assert set(np.unique(b)) == {-1.0, 1.0}
    np.testing.assert_allclose(b.mean(0), images(1)[0], atol=5 / 20_000**0.5)
    assert not np.array_equal(b, vae.observed(SMALL, x, jax.random.key(4)))  # anew each time
    still = dataclasses.replace(SMALL, binarise="threshold")
    np.testing.assert_array_equal(vae.observed(still, x, KEY)[0], np.where(images(1)[0] > 0, 1, -1))


def test_terms_equal_their_definition_in_float64():
    """Bernoulli nats of the binary image the network saw, and KL, from the network's outputs."""
    cfg = dataclasses.replace(SMALL, binarise="threshold", num_latent_samples=2)
    variables, net = vae.method(cfg).init(KEY, {"image": images()}).variables, vae.VAE(cfg)
    got = vae.elbo_terms(cfg, variables, images(), KEY)
    b = np.where(images() > 0, 1.0, -1.0)
    q = net.apply(variables, jnp.float32(b), method="posterior")
    assert isinstance(q, dist.Normal)
    mean, log_std = np.asarray(q.mean, np.float64), np.asarray(q.log_std, np.float64)
    noise_key = jax.random.split(KEY)[1]
    keys = [jax.random.fold_in(noise_key, i) for i in range(8)]
    eps = np.stack([jax.random.normal(k, (2, 3)) for k in keys])
    want = 0.0
    for i in range(2):
        z = mean + np.exp(log_std) * eps[:, i]
        logits = np.asarray(net.apply(variables, jnp.float32(z), method="eta"), np.float64)
        p = 1 / (1 + np.exp(-logits))
        want = want - np.where(b > 0, np.log(p), np.log1p(-p)).sum((1, 2, 3)) / 2
    np.testing.assert_allclose(got["reconstruction"], want, rtol=1e-4)
    kl = 0.5 * (mean**2 + np.exp(2 * log_std) - 1 - 2 * log_std).sum(1)
    np.testing.assert_allclose(got["kl"], kl, rtol=1e-4, atol=1e-6)


def test_beta_weighs_the_kl_term_alone():
    parts = {"reconstruction": jnp.float32([3.0, 5.0]), "kl": jnp.float32([1.0, 2.0])}
    assert float(bounds.weighted(dataclasses.replace(SMALL, beta=4.0), parts)) == 4 + 4 * 1.5


def test_the_kl_from_a_mixture_is_the_integral():
    """The Monte Carlo KL from the petals, against a grid in float64."""
    cfg = vae.Config(shape=(3,), latent_shape=(2,), hidden=(), prior="petals", num_latent_samples=1)
    variables = vae.method(cfg).init(KEY, {"x": np.zeros((1, 3), np.float32)}).variables
    num = 20_000
    x = np.tile(np.array([[0.5, -1, 2]], np.float32), (num, 1))
    estimates = np.asarray(vae.elbo_terms(cfg, variables, x, KEY)["kl"], np.float64)
    q: dist.Normal = networks.apply(vae.VAE(cfg), variables, "posterior", jnp.asarray(x[:1]))
    side = np.linspace(-6, 6, 401)
    z = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    m, s = np.asarray(q.mean[0], np.float64), np.exp(np.asarray(q.log_std[0], np.float64))
    log_q = -0.5 * (((z - m) / s) ** 2).sum(1) - np.log(s).sum() - np.log(2 * np.pi)
    log_p = np.asarray(dist.petals().log_prob(jnp.float32(z)), np.float64)
    want = (np.exp(log_q) * (log_q - log_p)).sum() * (side[1] - side[0]) ** 2
    assert estimates.mean() == pytest.approx(want, abs=5 * estimates.std() / num**0.5)


@pytest.mark.parametrize("likelihood", list(dist.LIKELIHOODS))
@pytest.mark.parametrize("scale", ["fixed", "shared", "each"])
def test_every_likelihood_has_its_numbers(likelihood, scale):
    cfg = dataclasses.replace(
        SMALL, likelihood=likelihood, scale_mode=scale, latent_shape=(3, 3, 2), initial_scale=0.2
    )
    variables = vae.method(cfg).init(KEY, {"image": images()}).variables
    z = vae.encode(cfg, variables, images())
    assert z.shape == (8, 3, 3, 2)
    eta = networks.apply(vae.VAE(cfg), variables, "eta", z)
    if likelihood == "bernoulli":
        assert eta.shape == (8, 6, 6, 1)
    else:
        s = np.exp(eta[..., 1:])
        assert eta.shape == (8, 6, 6, 2) and s.mean() == pytest.approx(0.2, rel=0.2)
        assert (s.std() > 1e-4) == (scale == "each")
    assert np.isfinite(vae.elbo(cfg, variables, images(), KEY)).all()
    np.testing.assert_allclose(
        vae.reconstruct(cfg, variables, images()), vae.decode(cfg, variables, z), atol=1e-6
    )


def test_samples_are_means_of_images_and_draws_of_vectors():
    variables = vae.method(SMALL).init(KEY, {"image": images()}).variables
    assert set(np.unique(vae.sample(SMALL, variables, KEY, 4, mean=False))) == {-1.0, 1.0}
    assert len(np.unique(vae.sample(SMALL, variables, KEY, 4))) > 10
    cfg, linear = exact()
    mean = np.asarray(vae.sample(cfg, linear, KEY, 10, mean=True))
    drawn = np.asarray(vae.sample(cfg, linear, KEY, 10))
    assert np.linalg.matrix_rank(mean - np.asarray(PARAMS["mean"]), tol=1e-3) == 2
    assert np.linalg.matrix_rank(drawn - np.asarray(PARAMS["mean"]), tol=1e-3) == 5


@pytest.mark.parametrize(
    "change",
    [
        dict(shape=(4, 4)), dict(latent_shape=()), dict(latent_shape=(0,)), dict(initial_scale=0.0),
        dict(beta=-1.0),
        dict(likelihood="poisson"), dict(scale_mode="all"), dict(binarise="static"),
        dict(num_latent_samples=0),
        dict(covariance="low-rank"), dict(prior="flat"), dict(prior="petals"),
        dict(covariance="full", latent_shape=(3, 3, 1)), dict(beta=float("nan")),
    ],
)  # fmt: skip
def test_an_impossible_config_is_refused(change):
    with pytest.raises(ValueError, match=f"Config.{next(iter(change))}"):
        dataclasses.replace(SMALL, **change)


def test_bad_arguments_are_refused():
    cfg, variables = exact()
    with pytest.raises(ValueError, match="num = 0"):
        vae.sample(cfg, variables, KEY, 0)
    with pytest.raises(ValueError, match="num = 0"):
        vae.log_prob(cfg, variables, X, KEY, num=0)
    with pytest.raises(ValueError, match="latent_shape"):
        vae.decode(cfg, variables, np.zeros((2, 3)))
    with pytest.raises(ValueError, match="mask"):
        vae.impute(cfg, variables, X, np.ones(4, bool), KEY)
    with pytest.raises(ValueError, match="steps = 0"):
        vae.impute(cfg, variables, X, np.ones(5, bool), KEY, steps=0)
    with pytest.raises(ValueError, match="Config.shape"):
        vae.encode(cfg, variables, np.zeros((2, 3), np.float32))


def test_weight_decay_is_a_normal_prior_of_the_decoders_weights():
    """The paper's MAP estimate: one step of gradient descent on -ELBO + ½ λ ‖θ‖²."""
    cfg = dataclasses.replace(
        LINEAR, optimizer="sgd", learning_rate=0.1, weight_decay=0.5, ema_decay=0.0
    )
    batch, key = {"x": np.ones((4, *cfg.shape), np.float32)}, jax.random.key(1)
    method = vae.method(cfg)
    state = method.init(jax.random.key(0), batch)
    plain = vae.method(dataclasses.replace(cfg, weight_decay=0.0))
    with_decay = method.train_step(key, state, batch)[0].params
    without = plain.train_step(key, plain.init(jax.random.key(0), batch), batch)[0].params
    for name in ("encoder", "decoder"):
        factor = 0.05 if name == "decoder" else 0.0
        want = jax.tree.map(lambda w, start, f=factor: w - f * start, without, state.params)[name]
        chex.assert_trees_all_close(with_decay[name], want, rtol=1e-5, atol=1e-7)


def test_activation_and_initial_weights_are_the_configs():
    cfg = dataclasses.replace(LINEAR, activation="tanh", init_std=0.1, hidden=(400,))
    x = np.random.default_rng(0).normal(size=(2, *cfg.shape)).astype(np.float32)
    params: Any = vae.method(cfg).init(jax.random.key(0), {"x": x}).params
    first, last = (params["encoder"]["MLP_0"][f"Dense_{i}"] for i in (0, 1))
    assert abs(float(np.std(first["kernel"])) - 0.1) < 0.01
    h = np.tanh(x @ np.asarray(first["kernel"], np.float64) + first["bias"])
    want = (h @ last["kernel"] + last["bias"])[:, : cfg.latent_shape[0]]
    np.testing.assert_allclose(vae.encode(cfg, {"params": params}, x), want, rtol=1e-4, atol=1e-6)
