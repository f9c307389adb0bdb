"""DDPM against what is known exactly; the expected numbers are computed here, in float64 NumPy."""

import dataclasses
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.compile import compile_step
from gengen.contract import Task
from gengen.diffusion import ddpm, elbo, inverse, operators
from gengen.diffusion.schedule import previous_alpha_bars, reverse_variances

S2 = 0.25  # variance of the Gaussian data below
ENTROPY = 0.5 * np.log(2 * np.pi * np.e * S2)


def traced(method, task, name=None):
    """The abstract state after a train step on data of a task: nothing is computed."""
    name = name or ("image" if len(task.shape) == 3 else "x")
    batch = {name: jax.ShapeDtypeStruct((4, *task.shape), jnp.float32)}
    if task.num_classes:
        batch["label"] = jax.ShapeDtypeStruct((4,), jnp.int32)
    key = jax.random.key(0)
    state = jax.eval_shape(method.init, key, batch)
    after, _ = jax.eval_shape(method.train_step, key, state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    return state


def gaussian_denoiser(schedule, s2=S2):
    """The exact E[ε | z_t] for data N(0, s2): √(1-ᾱ) z / (ᾱ s2 + 1 - ᾱ)."""
    alpha, rest = (jnp.asarray(a, jnp.float32) for a in schedule[1:])

    def eps_fn(z, t):
        spread = (-1, *(1,) * (z.ndim - 1))
        a, b = alpha[t - 1].reshape(spread), rest[t - 1].reshape(spread)
        return jnp.sqrt(b) * z / (a * s2 + b)

    return eps_fn


def exact_bound(schedule, variance, s2=S2):
    """-ELBO of the exact denoiser on N(0, s2), its expectation over x and all noise, in nats."""
    beta, alpha, rest = schedule
    sigma2 = reverse_variances(schedule, variance).copy()
    sigma2[0] = sigma2[0] or sigma2[1]
    error = alpha * s2 / (alpha * s2 + rest)  # E (ε - ε̂)², the variance of ε given z_t
    posterior = beta * previous_alpha_bars(schedule)[1] / rest
    ratio = posterior[1:] / sigma2[1:]
    weight = beta**2 / (2 * sigma2 * (1 - beta) * rest)
    diffusion = np.sum(0.5 * (ratio - 1 - np.log(ratio)) + (weight * error)[1:])
    # ln p(x | z_1): the mean misses x by β/√((1-β)(1-ᾱ)) (ε - ε̂), as for every other t.
    reconstruction = 0.5 * np.log(2 * np.pi * sigma2[0]) + weight[0] * error[0]
    prior = 0.5 * (alpha[-1] * s2 - alpha[-1] - np.log(rest[-1]))
    return prior, diffusion, reconstruction


@pytest.mark.parametrize("variance", ["beta", "posterior"])
@pytest.mark.parametrize(
    "schedule",
    # The last leaves so much of x in z_T that a wrong prior term would show.
    [
        ddpm.linear_schedule(40),
        ddpm.cosine_schedule(40),
        ddpm.from_betas(np.array([0.05, 0.1, 0.2])),
    ],
)
def test_elbo_terms_of_an_exact_denoiser(schedule, variance):
    x = np.random.default_rng(0).normal(0, np.sqrt(S2), (20_000, 1)).astype(np.float32)
    eps_fn = gaussian_denoiser(schedule)
    terms = ddpm.elbo_terms(eps_fn, schedule, jnp.asarray(x), jax.random.key(0), variance, None)
    want = exact_bound(schedule, variance)
    for got, expected in zip(("prior", "diffusion", "reconstruction"), want, strict=True):
        draws = np.asarray(terms[got], np.float64)
        error = draws.std() / np.sqrt(len(draws))  # independent draws: four of these, and rounding
        assert abs(draws.mean() - expected) < 4 * error + 1e-4, got


def test_with_beta_variance_the_bound_tends_to_the_entropy():
    gaps = [sum(exact_bound(ddpm.cosine_schedule(T), "beta")) - ENTROPY for T in (10, 100, 1000)]
    np.testing.assert_allclose(gaps, [0.0560, 0.00601, 0.000612], rtol=0.02)


def test_with_posterior_variance_a_gap_stays():
    gaps = [sum(exact_bound(ddpm.cosine_schedule(T), "posterior")) - ENTROPY for T in (100, 1000)]
    assert all(0.3 < gap < 1.0 for gap in gaps), gaps


def test_unit_variance_makes_every_weight_one_half_and_is_wrong_to_sample_with():
    linear, cosine = ddpm.linear_schedule(1000), ddpm.cosine_schedule(1000)
    for schedule in (linear, cosine):
        sigma2 = reverse_variances(schedule, "unit")
        beta, _, rest = schedule
        np.testing.assert_allclose(beta**2 / (2 * sigma2 * (1 - beta) * rest), 0.5, rtol=1e-12)
    # The right σ_t² lies between the posterior's and β_t: too small at large t, or too large.
    assert reverse_variances(linear, "unit")[-1] < 0.1 * reverse_variances(linear, "posterior")[-1]
    assert reverse_variances(cosine, "unit")[-1] > 100 * reverse_variances(cosine, "beta")[-1]


def test_linear_schedule_is_the_papers_at_1000_steps():
    schedule = ddpm.linear_schedule(1000)
    assert schedule.betas[0] == pytest.approx(1e-4) and schedule.betas[-1] == pytest.approx(0.02)
    assert schedule.alpha_bars[-1] == pytest.approx(np.prod(1 - np.linspace(1e-4, 0.02, 1000)))
    assert schedule.alpha_bars.dtype == np.float64


def test_cosine_schedule_is_the_papers():
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    schedule = ddpm.cosine_schedule(1000)
    np.testing.assert_allclose(schedule.alpha_bars[:-1], f[1:-1] / f[0], rtol=1e-9)
    assert schedule.betas[-1] == 0.999  # where the formula says 1


def test_one_minus_alpha_bars_keeps_its_digits():
    schedule = ddpm.from_betas(np.full(3, 1e-12))
    np.testing.assert_allclose(schedule.one_minus_alpha_bars, [1e-12, 2e-12, 3e-12], rtol=1e-9)


def test_q_sample_has_the_moments_of_q():
    schedule = ddpm.cosine_schedule(10)
    eps = np.random.default_rng(0).normal(size=(100_000, 1)).astype(np.float32)
    x = np.full_like(eps, 0.7)
    for t in (1, 5, 10):
        z = ddpm.q_sample(schedule, jnp.asarray(x), jnp.full(len(x), t), jnp.asarray(eps))
        alpha = schedule.alpha_bars[t - 1]
        assert np.mean(z) == pytest.approx(np.sqrt(alpha) * 0.7, abs=4 / np.sqrt(len(x)))
        assert np.var(z) == pytest.approx(1 - alpha, rel=4 * np.sqrt(2 / len(x)))


@pytest.mark.parametrize("prediction", ["x0", "v"])
def test_every_prediction_is_the_same_guess_of_the_noise(prediction):
    """A network that outputs the target exactly must give ε back."""
    cfg = ddpm.Config(shape=(3,), T=10, prediction=prediction, schedule="cosine")
    rng = np.random.default_rng(1)
    x, eps = (jnp.asarray(rng.normal(size=(5, 3)), jnp.float32) for _ in range(2))
    t = jnp.array([1, 3, 5, 8, 10])
    z = ddpm.q_sample(ddpm.noise_schedule(cfg), x, t, eps)

    class Exact(nn.Module):
        def __call__(self, z, t, train):
            return ddpm.target(cfg, x, t, eps)

    # x0: 1/√(1-ᾱ_1) ≈ 5 magnifies rounding.
    np.testing.assert_allclose(ddpm.denoiser(cfg, {}, Exact())(z, t), eps, atol=2e-6)


def test_bins_of_the_decoder_sum_to_one():
    levels = jnp.linspace(-1, 1, 256)
    for mean, sigma in [(0.3, 0.01), (-0.9, 0.2), (1.4, 0.003), (0.0, 1e-4)]:
        total = np.exp(np.asarray(elbo._log_bin(levels, jnp.float32(mean), sigma, 256))).sum()
        assert total == pytest.approx(1, abs=2e-5)  # float32, 256 terms


def test_log_prob_of_images_is_that_of_the_exact_bound():
    """A network of zeros predicts ε̂ = 0: then every term is known in closed form."""
    cfg = ddpm.Config(shape=(4, 4, 1), channels=(8,), num_blocks=(1,), num_groups=4, T=30, patch=2,
                      schedule="linear", prediction="eps")  # fmt: skip
    x = jnp.asarray(np.random.default_rng(0).integers(0, 256, (64, 4, 4, 1)) / 127.5 - 1)
    state = ddpm.method(cfg).init(jax.random.key(0), {"image": x.astype(jnp.float32)})
    zeros = jax.tree.map(jnp.zeros_like, state.variables)
    schedule = ddpm.noise_schedule(cfg)
    beta, _, rest = schedule
    posterior = beta * previous_alpha_bars(schedule)[1] / rest
    ratio = posterior[1:] / beta[1:]
    weight = beta / (2 * (1 - beta) * rest)
    diffusion = 16 * np.sum(0.5 * (ratio - 1 - np.log(ratio)) + weight[1:])  # E ε² = 1
    terms = ddpm.elbo_terms(
        ddpm.denoiser(cfg, zeros), schedule, x.astype(jnp.float32), jax.random.key(0)
    )
    mean, error = np.mean(terms["diffusion"]), np.std(terms["diffusion"]) / 8
    assert abs(mean - diffusion) < 4 * error
    total = -sum(np.asarray(v, np.float64) for v in terms.values())
    np.testing.assert_allclose(ddpm.log_prob(cfg, zeros, x.astype(jnp.float32)), total, rtol=1e-5)
    bits = ddpm.bits_per_dim(cfg, zeros, x.astype(jnp.float32))
    np.testing.assert_allclose(bits, -total / (16 * np.log(2)), rtol=1e-5)


def test_sampling_a_trained_mixture_learns_it():
    """Learning test: 600 steps on two points of the line must find both, in the right shares."""
    cfg = ddpm.Config(
        shape=(1,), T=50, schedule="cosine", prediction="v", hidden_dim=32, learning_rate=3e-3,
        ema_decay=0.99, warmup_steps=20, decay_steps=600, batch_size=256,
    )  # fmt: skip
    method = ddpm.method(cfg)
    rng = np.random.default_rng(0)

    def batch():
        left = rng.random(256) < 0.25
        return {"x": (np.where(left, -2, 1)[:, None] + 0.1 * rng.normal(size=(256, 1))).astype("f")}

    state, step = method.init(jax.random.key(0), batch()), compile_step(method.train_step)
    for _ in range(600):
        state, _ = step(jax.random.key(1), state, batch())
    x = np.asarray(ddpm.sample(cfg, state.variables, jax.random.key(2), 2000))[:, 0]
    assert np.mean(x < -0.5) == pytest.approx(0.25, abs=0.06)
    assert np.mean(np.minimum(abs(x + 2), abs(x - 1)) < 0.5) > 0.95


def test_several_times_for_each_example():
    """Each copy has a t and a noise of its own: the gradient's noise falls, its mean stays."""
    losses = {}
    for times in (1, 64):
        cfg = ddpm.Config(shape=(2,), T=20, hidden_dim=16, times_per_example=times, batch_size=4)
        method = ddpm.method(cfg)
        batch = {"x": np.ones((4, 2), np.float32)}
        state = method.init(jax.random.key(0), batch)
        step = jax.jit(method.train_step)
        losses[times] = [float(step(jax.random.key(i), state, batch)[1]["loss"]) for i in range(40)]
    assert np.std(losses[64]) < 0.4 * np.std(losses[1])  # in theory 1/8, with stratified t
    assert np.mean(losses[64]) == pytest.approx(
        np.mean(losses[1]), abs=4 * float(np.std(losses[1])) / 6
    )


def test_all_times_are_trained_alike():
    """One of T in each T-th of a batch, the first and the last as well."""
    cfg, seen = ddpm.Config(shape=(2,), T=4, hidden_dim=16), []

    def predict(z, t, key):
        seen.append(np.asarray(t))
        return z

    ddpm.simple_loss(cfg, predict, jax.random.key(0), jnp.zeros((40, 2)))
    np.testing.assert_array_equal(np.bincount(seen[0], minlength=5), [0, 10, 10, 10, 10])


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(schedule="linear", beta_end=1.0), "ᾱ_T"),
        (dict(T=0), "Config.T = 0"),
        (dict(dropout=1.0), "Config.dropout"),
        (dict(prediction="noise"), "Config.prediction"),
        (dict(schedule="square"), "Config.schedule"),
        (dict(variance="none"), "variance"),
        (dict(sampler="euler"), "Config.sampler"),
        (dict(shape=(28, 28)), "Config.shape"),
        (dict(num_blocks=(1,)), "Config.num_blocks"),
        (dict(warmup_steps=10, decay_steps=10), "decay_steps"),
    ],
)
def test_an_impossible_config_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(ddpm.Config(), **change)


def test_bad_calls_are_refused():
    cfg = ddpm.Config(shape=(2,), T=5, hidden_dim=8)
    state = ddpm.method(cfg).init(jax.random.key(0), {"x": np.zeros((2, 2), np.float32)})
    with pytest.raises(ValueError, match="num = 0"):
        ddpm.sample(cfg, state.variables, jax.random.key(0), 0)
    with pytest.raises(ValueError, match="floats"):
        ddpm.method(cfg).init(jax.random.key(0), {"x": np.zeros((2, 2), np.int32)})
    with pytest.raises(ValueError, match='"image" or "x"'):
        ddpm.method(cfg).init(jax.random.key(0), {"y": np.zeros((2, 2), np.float32)})
    with pytest.raises(ValueError, match="patches of 3"):
        images = ddpm.Config(shape=(8, 8, 1), patch=3, num_groups=4, channels=(8,), num_blocks=(1,))
        ddpm.method(images).init(jax.random.key(0), {"image": np.zeros((2, 8, 8, 1), np.float32)})


def test_the_papers_config_is_the_papers():
    cfg = ddpm.Config.paper()
    assert (cfg.T, cfg.batch_size, cfg.learning_rate, cfg.ema_decay) == (1000, 128, 2e-4, 0.9999)
    assert ddpm.noise_schedule(cfg).betas[-1] == pytest.approx(0.02)
    settings = (cfg.schedule, cfg.prediction, cfg.sampler, cfg.variance, cfg.b2, cfg.decay_steps)
    assert settings == ("linear", "eps", "ancestral", "beta", 0.999, 0)
    like = traced(ddpm.method(cfg), Task(cfg.shape))
    assert sum(leaf.size for leaf in jax.tree.leaves(like.params)) == 35_746_307


@pytest.mark.parametrize("accelerator", [False, True])
@pytest.mark.parametrize(
    "shape", [(8, 8, 1), (16, 16, 3), (28, 28, 1), (32, 32, 3), (7, 5, 3), (2,), (64,)]
)
@pytest.mark.parametrize("steps", [1, 20, 1500])
def test_the_default_works_on_data_of_any_shape(shape, accelerator, steps):
    task = Task(shape, 10, steps, accelerator)
    cfg = ddpm.Config.for_task(task)
    assert cfg.shape == shape and cfg.decay_steps in (0, steps)
    if steps == 20:
        traced(ddpm.method(cfg), task)
        traced(ddpm.method(ddpm.Config(shape=shape)), task)


def test_the_learning_rate_ends_at_the_floor():
    cfg = ddpm.Config(warmup_steps=2, decay_steps=6, decay_floor=0.1)
    tx, params = ddpm.optimizer(cfg), {"w": jnp.ones(1)}
    rates: list[float] = []
    state: Any = tx.init(params)
    for _ in range(9):
        _, state = tx.update(params, state, params)
        rates.append(float(state[1].hyperparams["learning_rate"]))
    assert rates[2] == pytest.approx(2e-3) and rates[0] == 0
    np.testing.assert_allclose(rates[6:], 2e-4, rtol=1e-5)


def test_evaluations_are_those_of_the_sampler():
    cfg = ddpm.Config(T=100, sample_steps=30)
    assert ddpm.evaluations(cfg) == 30
    assert ddpm.evaluations(dataclasses.replace(cfg, sample_steps=None)) == 100
    assert ddpm.evaluations(dataclasses.replace(cfg, sampler="ancestral")) == 100
    assert ddpm.evaluations(ddpm.Config(T=20)) == 20
    few = ddpm.with_evaluations(cfg, 5)
    assert ddpm.evaluations(few) == 5 and few.sampler == "multistep"
    with pytest.raises(ValueError, match="1 to T = 100"):
        ddpm.with_evaluations(cfg, 101)


class Own(nn.Module):
    """A user's network."""

    width: int = 8

    @nn.compact
    def __call__(self, z, t, train):
        assert isinstance(train, bool)
        h = nn.Dense(self.width)(jnp.concatenate([z, t[:, None] / 20], axis=-1))
        h = nn.Dropout(0.1, deterministic=not train)(nn.swish(h))
        return nn.Dense(z.shape[-1])(h)


def test_a_network_of_ones_own_does_all_that_the_configs_does():
    cfg, net = ddpm.Config(shape=(2,), T=20), Own()
    method = ddpm.method(cfg, net=net)
    batch = {"x": np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)}
    state = method.init(jax.random.key(0), batch)
    assert state.params["Dense_0"]["kernel"].shape == (3, 8)
    state, metrics = jax.jit(method.train_step)(jax.random.key(1), state, batch)
    chex.assert_tree_all_finite(metrics)
    key, variables = jax.random.key(2), state.variables
    y = inverse.Measurement(operators.matrix(np.ones((1, 2))), np.zeros((1, 1)), 0.1)
    results = (
        ddpm.sample(cfg, variables, key, 3, net=Own()),
        ddpm.posterior(cfg, variables, key, 3, y, net=Own()),
        ddpm.log_prob(cfg, variables, batch["x"][:3], net=Own())[:, None],
        ddpm.bits_per_dim(cfg, variables, batch["x"][:3], net=Own())[:, None],
        ddpm.denoiser(cfg, variables, Own())(jnp.ones((3, 2)), jnp.full(3, 4)),
    )
    assert all(r.shape[0] == 3 and np.all(np.isfinite(r)) for r in results)


def test_a_condition_of_the_unconditional_model_is_refused():
    cfg = ddpm.Config(shape=(2,), T=5)
    with pytest.raises(ValueError, match="unconditional"):
        ddpm.sample(cfg, {}, jax.random.key(0), 2, condition=np.arange(2))
