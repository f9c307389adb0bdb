"""EDM against coefficients, flows and denoisers that are known."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gengen import rng
from gengen.compile import compile_step
from gengen.diffusion import edm, exact
from gengen.errors import InputError
from tests.diffusion.test_samplers import MIXTURE, first_noise, sliced_wasserstein

KEY = jax.random.key(0)
CFG = edm.Config(shape=(2,), hidden_dim=16, batch_size=16)
SIGMAS = np.array([0.002, 0.1, 0.5, 3.0, 80.0])


# --- preconditioning -----------------------------------------------------------------------------


def test_inputs_and_targets_have_variance_one():
    """For data ±σ_data and a million samples at each σ; c_out is the least that any c_skip has."""
    sigma_data, num = 0.7, 1_000_000
    numbers = np.random.default_rng(0)
    x = sigma_data * numbers.choice([-1.0, 1.0], num)
    noise = numbers.normal(size=num)
    found = [
        np.asarray(c, np.float64) for c in edm.preconditioning(jnp.asarray(SIGMAS), sigma_data)
    ]
    for sigma, skip, out, scale, _ in zip(SIGMAS, *found, strict=True):
        z = x + sigma * noise
        error = 6 * np.sqrt(2 / num)
        assert np.var(scale * z) == pytest.approx(1, abs=error)
        assert np.var((x - skip * z) / out) == pytest.approx(1, abs=error)
        other = [np.var(x - (skip + shift) * z) for shift in (-0.1, 0.1)]
        assert min(other) > out**2
    np.testing.assert_allclose(found[3], np.log(SIGMAS) / 4, rtol=1e-6)


def test_the_weight_of_the_loss_undoes_c_out():
    c = edm.preconditioning(jnp.asarray(SIGMAS), 0.7)
    np.testing.assert_allclose(edm.loss_weight(jnp.asarray(SIGMAS), 0.7) * c.c_out**2, 1, rtol=1e-5)
    np.testing.assert_allclose(
        edm.loss_weight(jnp.asarray(SIGMAS), 0.7), 1 / SIGMAS**2 + 1 / 0.7**2, rtol=1e-5
    )


def test_the_schedule_by_hand():
    found = edm.noise_levels(18, 0.002, 80.0, 7.0)
    want = [(80 ** (1 / 7) * (17 - i) / 17 + 0.002 ** (1 / 7) * i / 17) ** 7 for i in range(18)]
    np.testing.assert_allclose(found, [*want, 0], rtol=1e-9)
    np.testing.assert_allclose(edm.noise_levels(3, 1.0, 5.0, 1.0), [5, 3, 1, 0])
    np.testing.assert_allclose(edm.noise_levels(1, 0.002, 80.0), [80, 0])


# --- the sampler ---------------------------------------------------------------------------------


def denoise_mixture(z, sigma):
    return exact.mean_of_data(MIXTURE, z, jnp.ones_like(sigma), sigma)


def test_the_mean_of_data_is_that_of_the_mixture():
    """By importance weights of 400,000 samples: given z, x has weight p(ε = (z - a x)/b)."""
    z, a, b = np.array([0.3, -0.6]), 0.8, 0.9
    x = MIXTURE.sample(np.random.default_rng(1), 400_000)
    w = np.exp(-0.5 * (((z - a * x) / b) ** 2).sum(1))
    parts = (w[:, None] * x).reshape(100, -1, 2).sum(1) / w.reshape(100, -1).sum(1)[:, None]
    found = exact.mean_of_data(MIXTURE, jnp.asarray([z]), jnp.array([a]), jnp.array([b]))[0]
    np.testing.assert_allclose(found, parts.mean(0), atol=5 * parts.std(0).max() / 10)
    score = exact.score(MIXTURE, jnp.asarray([z]), jnp.array([a]), jnp.array([b]))[0]
    np.testing.assert_allclose(score, (a * found - z) / b**2, rtol=1e-4)


CHURN = edm.Churn(S_churn=30.0, S_tmin=0.01, S_tmax=50.0, S_noise=1.0)


@pytest.mark.parametrize(
    ("solver", "num", "churn"),
    [("heun", 20, edm.NO_CHURN), ("heun", 60, CHURN), ("euler", 100, edm.NO_CHURN)],
)
def test_the_exact_denoiser_of_a_mixture_gives_the_mixture(solver, num, churn):
    sigmas = edm.noise_levels(num, 0.002, 80.0)
    x = edm.solve(denoise_mixture, KEY, (20_000, 2), sigmas, churn, solver)
    numbers = np.random.default_rng(0)
    real = [MIXTURE.sample(numbers, 20_000) for _ in range(2)]
    floor = sliced_wasserstein(real[0], real[1])
    # Two real sets are 0.007 apart; Euler's 100 steps leave an error of the order 1/100.
    assert sliced_wasserstein(np.asarray(x), real[0]) < floor + 0.02


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_the_error_falls_at_the_order_of_the_solver(solver, order):
    """Nested grids down to σ_min. Along the flow of N(m, s²), (z - m)/√(s² + σ²) stays."""
    m, s, errors = 0.7, 0.5, []
    with jax.enable_x64(True):

        def denoise(z, sigma):
            v = sigma[:, None] ** 2
            return (s**2 * z + v * m) / (s**2 + v)

        start = 80 * first_noise(KEY, (64, 1))
        end = m + (start - m) * np.sqrt((s**2 + 0.002**2) / (s**2 + 80.0**2))
        for intervals in (32, 64, 128):
            sigmas = edm.noise_levels(intervals + 1, 0.002, 80.0)[:-1]
            x = edm.solve(denoise, KEY, (64, 1), sigmas, solver=solver)
            errors.append(np.abs(np.asarray(x) - end).max())
    assert errors[-1] > 1e-7
    rates = np.log2(np.asarray(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(rates, order, atol=0.25)


def algorithm_2(denoise, key, shape, sigmas, churn):
    """Algorithm 2 of the paper, line by line, in NumPy float64."""
    N = len(sigmas) - 1
    x = sigmas[0] * first_noise(key, shape)
    for i in range(N):
        t, t_next = sigmas[i], sigmas[i + 1]
        inside = churn.S_tmin <= t <= churn.S_tmax
        gamma = min(churn.S_churn / N, np.sqrt(2) - 1) if inside else 0.0
        eps = np.asarray(rng.normal(jax.random.fold_in(key, i + 1), shape), np.float64)
        t_hat = t + gamma * t
        x_hat = x + np.sqrt(t_hat**2 - t**2) * churn.S_noise * eps
        d = (x_hat - denoise(x_hat, t_hat)) / t_hat
        x = x_hat + (t_next - t_hat) * d
        if t_next != 0:
            d_new = (x - denoise(x, t_next)) / t_next
            x = x_hat + (t_next - t_hat) * (d / 2 + d_new / 2)
    return x


@pytest.mark.parametrize("amount", [1.2, 100.0])  # γ = 0.2, and √2 - 1
def test_the_sampler_is_algorithm_2(amount):
    sigmas = edm.noise_levels(6, 0.01, 10.0)
    churn = edm.Churn(amount, S_tmin=sigmas[4], S_tmax=sigmas[1], S_noise=1.3)
    x = edm.solve(lambda z, t: jnp.sin(z) / (1 + t[:, None]), KEY, (8, 3), sigmas, churn)
    want = algorithm_2(lambda z, t: np.sin(z) / (1 + t), KEY, (8, 3), sigmas, churn)
    np.testing.assert_allclose(x, want, atol=2e-5)
    still = algorithm_2(lambda z, t: np.sin(z) / (1 + t), KEY, (8, 3), sigmas, edm.NO_CHURN)
    assert np.abs(want - still).max() > 0.1


def test_evaluations_are_those_of_the_sampler():
    calls = []

    def denoise(z, sigma):
        calls.append(1)
        return 0.5 * z

    with jax.disable_jit():
        for cfg in (CFG, edm.with_evaluations(CFG, 7), edm.with_evaluations(CFG, 8)):
            calls.clear()
            steps = (cfg.sample_steps + 1) // 2 if cfg.solver == "heun" else cfg.sample_steps
            sigmas = edm.noise_levels(steps, 0.002, 80.0)
            edm.solve(denoise, KEY, (1, 1), sigmas, solver=cfg.solver)
            assert len(calls) == edm.evaluations(cfg)
    assert edm.with_evaluations(CFG, 8).solver == "euler"
    assert edm.Config.paper().sample_steps == 2 * 18 - 1


# --- training ------------------------------------------------------------------------------------


class Exact(nn.Module):
    """F of the exact denoiser s² z/(s² + σ²) of N(0, s²), with a parameter that moves it."""

    s2: float
    sigma_data: float = 0.5

    @nn.compact
    def __call__(self, z, t, y, train=False):
        sigma2, d2 = jnp.exp(8 * t[:, None]), self.sigma_data**2
        noisy = z * jnp.sqrt(sigma2 + d2)
        wanted = self.s2 / (self.s2 + sigma2) * noisy - d2 / (d2 + sigma2) * noisy
        found = wanted * jnp.sqrt(sigma2 + d2) / jnp.sqrt(sigma2 * d2)
        return found + self.param("shift", nn.initializers.zeros, (2,))


def test_the_exact_denoiser_has_the_least_loss():
    """It is E λ(σ) s²σ²/(s² + σ²) per dimension, and the gradient is 0 up to the batch's noise."""
    s2, num = 1.7, 20_000
    cfg = dataclasses.replace(CFG, batch_size=num, P_mean=-0.7, P_std=0.9)
    x = np.float32(np.sqrt(s2) * np.random.default_rng(4).normal(size=(num, 2)))
    method = edm.method(cfg, net=Exact(s2))
    metrics = method.train_step(KEY, method.init(KEY, {"x": x}), {"x": x})[1]
    sigma2 = np.exp(2 * (-0.7 + 0.9 * stats.norm.ppf((np.arange(num) + 0.5) / num)))
    want = np.mean((1 / sigma2 + 1 / 0.25) * s2 * sigma2 / (s2 + sigma2))
    assert float(metrics["loss"]) == pytest.approx(want, rel=0.05)
    assert float(metrics["gradient_norm"]) < 12 * np.sqrt(2 * want / num)


def test_training_approaches_the_exact_denoiser():
    """On N(m, s²), where F = 0 is far from it."""
    s, m = 1.3, np.array([0.8, -0.4])
    cfg = dataclasses.replace(CFG, hidden_dim=32, batch_size=256, learning_rate=1e-2,
                              lr_schedule="cosine", decay_steps=300, clip_norm=10.0)  # fmt: skip
    method, numbers = edm.method(cfg), np.random.default_rng(5)
    batch = lambda: {"x": np.float32(m + s * numbers.normal(size=(256, 2)))}  # noqa: E731
    state, step = method.init(KEY, batch()), compile_step(method.train_step)
    for _ in range(300):
        state, _ = step(KEY, state, batch())
    sigma = jnp.repeat(jnp.array([0.1, 0.5, 1.5]), 300)
    x = m + s * numbers.normal(size=(900, 2))
    z = x + np.asarray(sigma)[:, None] * numbers.normal(size=(900, 2))
    v = np.asarray(sigma)[:, None] ** 2
    want = (s**2 * z + v * m) / (s**2 + v)
    found = edm.denoiser(cfg, state.variables, jnp.zeros((900, 0)))(jnp.float32(z), sigma)
    untrained = edm.preconditioned(cfg, lambda z, t: 0 * z)(jnp.float32(z), sigma)
    error, before = (np.sqrt(np.mean((np.asarray(d) - want) ** 2)) for d in (found, untrained))
    assert before > 0.5
    assert error < 0.1 * before


# --- classes -------------------------------------------------------------------------------------


class ByClass(nn.Module):
    """An F that depends on nothing but the class: its parameter, plus `always`."""

    always: float = 0.0

    @nn.compact
    def __call__(self, z, t, y, train=False):
        shift = self.param("shift", nn.initializers.normal(1.0), (3, 2))
        return y @ shift + self.always + 0 * z


LABELLED = dataclasses.replace(CFG, num_classes=3, condition_dropout=0.25)


def test_training_gives_each_class_its_own_denoiser():
    """For data 5k of class k the best F is 5k E σ/(σ_data √(σ² + σ_data²)): λ c_out² = 1."""
    num = 6000
    labels = np.random.default_rng(6).integers(0, 3, num).astype(np.int32)
    x = np.float32(5.0 * labels[:, None] + np.zeros(2))
    cfg = dataclasses.replace(LABELLED, batch_size=num, learning_rate=0.5, warmup_steps=0,
                              ema_decay=0.9, clip_norm=1e9)  # fmt: skip
    method = edm.method(cfg, net=ByClass())
    batch = {"x": x, "label": labels}
    state, step = method.init(KEY, batch), compile_step(method.train_step)
    for _ in range(100):
        state, _ = step(KEY, state, batch)
    sigma = np.exp(-1.2 + 1.2 * stats.norm.ppf((np.arange(num) + 0.5) / num))
    factor = np.mean(sigma / (0.5 * np.sqrt(sigma**2 + 0.25)))
    want = 5.0 * factor * np.arange(3)[:, None] + np.zeros(2)
    np.testing.assert_allclose(state.params["shift"], want, atol=0.35)


def test_samples_follow_the_class_with_guidance():
    net, y = ByClass(2.0), np.array([2, 0, 1, 1])
    cfg = dataclasses.replace(LABELLED, sample_steps=9, sigma_max=5.0, S_churn=1.0)
    variables = net.init(KEY, jnp.zeros((1, 2)), jnp.zeros(1), jnp.zeros((1, 3)))
    shift, sigmas = np.asarray(variables["params"]["shift"]), edm.noise_levels(5, 0.002, 5.0)
    churn = edm.Churn(1.0, 0.05, 50.0, 1.003)
    for w, condition, rows in ((0.5, y, y), (0.0, y, y), (0.0, None, [0, 1, 2, 0])):
        output = (1 + w) * shift[rows] + 2

        def denoise(z, t, output=output):
            return 0.25 / (t**2 + 0.25) * z + 0.5 * t / np.sqrt(t**2 + 0.25) * output

        used = dataclasses.replace(cfg, guidance=w)
        x = edm.sample(used, variables, KEY, 4, condition=condition, net=net)
        np.testing.assert_allclose(x, algorithm_2(denoise, KEY, (4, 2), sigmas, churn), atol=1e-5)


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(sample_steps=6), "sample_steps = 6; .* odd"),
        (dict(solver="midpoint"), "Config.solver"),
        (dict(sigma_min=90.0), "sigma_max"),
        (dict(sigma_data=0.0), "Config.sigma_data"),
        (dict(S_churn=-1.0), "S_churn"),
        (dict(num_classes=3, guidance=1.0, condition_dropout=0.0), "Config.guidance"),
        (dict(shape=(2, 2)), "Config.shape"),
    ],
)
def test_an_impossible_config_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(CFG, **change)
