"""Score-based models against moments, densities and flows that are known."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.integrate import solve_ivp

from gengen import rng
from gengen.compile import compile_step
from gengen.diffusion import exact, ode, score_sde
from gengen.errors import InputError
from tests.diffusion.test_samplers import MEANS, MIXTURE, STD, WEIGHTS, sliced_wasserstein

KEY = jax.random.key(0)
CFG = score_sde.Config(shape=(2,), hidden_dim=16, batch_size=16)
NAMES = ["vp", "subvp", "ve"]


def equation(name):
    return score_sde.SDES[name](CFG)


def score_of_mixture(sde):
    return lambda x, t: exact.score(MIXTURE, x, sde.mean(t), sde.std(t))


# --- the equations -------------------------------------------------------------------------------

LN_RATIO = np.log(50 / 0.01)
F = {
    "vp": lambda t: -(0.1 + 19.9 * t) / 2, "subvp": lambda t: -(0.1 + 19.9 * t) / 2,
    "ve": lambda t: 0.0,
}  # fmt: skip
G2 = {
    "vp": lambda t: 0.1 + 19.9 * t,
    "subvp": lambda t: (0.1 + 19.9 * t) * (1 - np.exp(-2 * (0.1 * t + 19.9 * t**2 / 2))),
    "ve": lambda t: 2 * LN_RATIO * (0.01 * (50 / 0.01) ** t) ** 2,
}


@pytest.mark.parametrize("name", NAMES)
def test_the_marginals_solve_the_equations_of_the_moments(name):
    """dm/dt = f m, ds²/dt = 2 f s² + g², with f and g of the paper; VE starts at σ_min."""
    t, start = np.array([0.01, 0.1, 0.3, 0.7, 1.0]), 0.01**2 if name == "ve" else 0.0

    def slope(t, moments):
        return [F[name](t) * moments[0], 2 * F[name](t) * moments[1] + G2[name](t)]

    found = solve_ivp(slope, (0, 1), [1.0, start], t_eval=t, rtol=1e-9, atol=1e-12)
    sde, times = equation(name), jnp.asarray(t, jnp.float32)
    np.testing.assert_allclose(sde.mean(times), found.y[0], rtol=1e-4)
    np.testing.assert_allclose(sde.std(times) ** 2, found.y[1], rtol=1e-4)
    np.testing.assert_allclose(sde.drift(times), [F[name](u) for u in t], rtol=1e-4)
    np.testing.assert_allclose(sde.diffusion2(times), [G2[name](u) for u in t], rtol=1e-4)


# --- densities -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_log_density_is_that_of_the_mixture(name):
    """At t_min, where the components have the variance m² STD² + s².

    The noise at t = 1 is so strong that the data are forgotten: with the usual one N(0, s(1)² I) is
    0.01 nats off p_1.
    """
    strong = dataclasses.replace(CFG, beta_end=40.0, sigma_max=1000.0)
    sde, t_min = score_sde.SDES[name](strong), 1e-3
    x = MIXTURE.sample(np.random.default_rng(2), 6)
    m, s = (float(v(jnp.asarray(t_min))) for v in (sde.mean, sde.std))
    scale = np.sqrt(m**2 * STD**2 + s**2)
    each = [stats.norm.logpdf(x, m * np.array(mean), scale).sum(1) for mean in MEANS]
    want = np.logaddexp.reduce([np.log(w) + part for w, part in zip(WEIGHTS, each, strict=True)])
    times = score_sde.flow_times(sde, 100, t_min)
    points, score = jnp.asarray(x, jnp.float32), score_of_mixture(sde)
    found = score_sde.log_density(sde, score, points, KEY, times, "rk4")
    np.testing.assert_allclose(found, want, atol=1e-3)


def test_the_estimate_of_the_divergence_is_exact_where_it_can_be():
    """Beyond `ode.EXACT_DIMS`: signs have vᵀ(cI)v = cD, so that N(0, S²) has its density."""
    dims, variance, sde = ode.EXACT_DIMS + 4, 0.3, score_sde.vp()
    x = np.sqrt(variance) * np.random.default_rng(3).normal(size=(4, dims))

    def score(x, t):
        return -x / (variance * sde.mean(t) ** 2 + sde.std(t) ** 2)[:, None]

    times, points = score_sde.flow_times(sde, 40, 1e-5), jnp.asarray(x, jnp.float32)
    found = score_sde.log_density(sde, score, points, KEY, times, "rk4")
    np.testing.assert_allclose(found, stats.norm.logpdf(x, 0, variance**0.5).sum(1), atol=5e-3)


# --- sampling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sampler", score_sde.SAMPLERS)
def test_the_exact_score_of_a_mixture_gives_the_mixture(name, sampler):
    sde, num = equation(name), 10_000
    if sampler == "pc":
        times = np.linspace(1, 1e-3, 301)
        x = score_sde.predictor_corrector(sde, score_of_mixture(sde), KEY, (num, 2), times, 1, 0.1)
    else:
        start = sde.std(jnp.ones(())) * rng.normal(KEY, (num, 2))
        flow = score_sde.probability_flow(sde, score_of_mixture(sde))
        x = ode.through(flow, start, score_sde.flow_times(sde, 40, 1e-3)[::-1], "heun")
    numbers = np.random.default_rng(0)
    real = [MIXTURE.sample(numbers, num) for _ in range(2)]
    floor = sliced_wasserstein(real[0], real[1])
    # Two real sets are 0.01 apart; 300 steps of the SDE leave a bias of the order 1/300.
    assert sliced_wasserstein(np.asarray(x), real[0]) < floor + (0.03 if sampler == "pc" else 0.015)


@pytest.mark.parametrize("name", NAMES)
def test_predictor_and_corrector_by_hand(name):
    """The paper's algorithms 2 to 5, in NumPy float64, with the same noise."""
    sde, shape, times, snr = equation(name), (5, 3), np.array([1.0, 0.6, 0.3, 0.1]), 0.2

    def score_of(x, t):
        ratio = x / sde.std(t)[:, None]
        return (jnp.sin(ratio) - ratio) / sde.std(t)[:, None]

    x = score_sde.predictor_corrector(sde, score_of, KEY, shape, times, 2, snr)
    m, s = (np.asarray(v(jnp.asarray(times)), np.float64) for v in (sde.mean, sde.std))
    normal = lambda key: np.asarray(rng.normal(key, shape), np.float64)  # noqa: E731
    z = s[0] * normal(jax.random.fold_in(KEY, 0))
    for i in range(3):
        score = lambda x, i=i: (np.sin(x / s[i]) - x / s[i]) / s[i]  # noqa: E731
        keys = jax.random.split(jax.random.fold_in(KEY, i + 1), 3)
        kept = m[i] / m[i + 1]  # √(1-β) of the step
        variance = s[i] ** 2 - kept**2 * s[i + 1] ** 2  # β, or σ² - σ'²
        for key in keys[1:]:
            g, n = score(z), normal(key)
            norms = [np.linalg.norm(v, axis=1).mean() for v in (n, g)]
            size = 2 * kept**2 * (snr * norms[0] / norms[1]) ** 2
            z = z + size * g + np.sqrt(2 * size) * n
        z = (2 - kept) * z + variance * score(z)
        if i < 2:
            z = z + np.sqrt(variance) * normal(keys[0])
    np.testing.assert_allclose(x, z, rtol=2e-4, atol=2e-4)


# --- training ------------------------------------------------------------------------------------


class Exact(nn.Module):
    """The ε̂ of N(0, s²) under a VP SDE, s x(t)/(m² s2 + s²), with a parameter that moves it."""

    s2: float

    @nn.compact
    def __call__(self, z, t, y, train=False):
        sde = score_sde.vp()
        m, s = sde.mean(t)[:, None], sde.std(t)[:, None]
        found = s * z * jnp.sqrt(m**2 + s**2) / (m**2 * self.s2 + s**2)
        return found + self.param("shift", nn.initializers.zeros, (2,))


def test_the_exact_noise_has_the_least_loss():
    """It is E m² s2/(m² s2 + s²) per dimension, and the gradient is 0 up to the batch's noise."""
    s2, num = 0.25, 20_000
    cfg = dataclasses.replace(CFG, batch_size=num, t_min=0.05)
    x = np.float32(np.sqrt(s2) * np.random.default_rng(4).normal(size=(num, 2)))
    method = score_sde.method(cfg, net=Exact(s2))
    metrics = method.train_step(KEY, method.init(KEY, {"x": x}), {"x": x})[1]
    t = 0.05 + 0.95 * (np.arange(num) + 0.5) / num
    m2 = np.exp(-(0.1 * t + 19.9 * t**2 / 2))
    want = np.mean(m2 * s2 / (m2 * s2 + 1 - m2))
    assert float(metrics["loss"]) == pytest.approx(want, rel=0.05)
    assert float(metrics["gradient_norm"]) < 12 * np.sqrt(2 * want / num)


def test_the_network_of_any_equation_gets_inputs_of_variance_one():
    """For data of variance 1, at every t; VE's x(t) have up to 2501."""
    x = rng.normal(KEY, (100_000, 1))
    for name in NAMES:
        sde, t = equation(name), jnp.repeat(jnp.array([0.05, 0.5, 1.0, 0.2]), 25_000)
        eps = rng.normal(jax.random.key(1), x.shape)
        noisy = sde.mean(t)[:, None] * x + sde.std(t)[:, None] * eps
        inputs = np.asarray(score_sde.noise_prediction(sde, lambda z, t: z)(noisy, t))
        variance = inputs.reshape(4, -1).var(1)
        np.testing.assert_allclose(variance, 1, atol=5 * np.sqrt(2 / 25_000))


# --- classes -------------------------------------------------------------------------------------


class ByClass(nn.Module):
    """An ε̂ that depends on nothing but the class: its parameter, plus `always`."""

    always: float = 0.0

    @nn.compact
    def __call__(self, z, t, y, train=False):
        shift = self.param("shift", nn.initializers.normal(1.0), (3, 2))
        return y @ shift + self.always + 0 * z


LABELLED = dataclasses.replace(CFG, num_classes=3, condition_dropout=0.25, solver="rk4",
                               sample_steps=400, t_min=0.01)  # fmt: skip


class OfPoints(nn.Module):
    """The ε̂ of data that are one point for each class, its parameter, under a VP SDE."""

    @nn.compact
    def __call__(self, z, t, y, train=False):
        sde = score_sde.vp()
        m, s = sde.mean(t)[:, None], sde.std(t)[:, None]
        points = self.param("points", nn.initializers.normal(1.0), (3, 2))
        return (z * jnp.hypot(m, s) - m * (y @ points)) / s


def test_training_finds_the_points_of_each_class():
    """For data 3k - 2 of class k the loss is least where the point of k is that one."""
    labels = np.random.default_rng(6).integers(0, 3, 1000).astype(np.int32)
    batch = {"x": np.float32(3.0 * labels[:, None] - 2 + np.zeros(2)), "label": labels}
    cfg = dataclasses.replace(LABELLED, batch_size=1000, learning_rate=0.3, warmup_steps=0,
                              ema_decay=0.9)  # fmt: skip
    method = score_sde.method(cfg, net=OfPoints())
    state, step = method.init(KEY, batch), compile_step(method.train_step)
    for _ in range(100):
        state, _ = step(KEY, state, batch)
    want = 3.0 * np.arange(3)[:, None] - 2 + np.zeros(2)
    np.testing.assert_allclose(state.params["points"], want, atol=0.1)


def flow_of_class(output, start, t0, t1):
    """Solve dx/dt = f x + ½ g²/s ε̂ of VP for a constant ε̂, and return ∫ f dt too."""

    def slope(t, x):
        s = np.sqrt(-np.expm1(-(0.1 * t + 19.9 * t**2 / 2)))
        return F["vp"](t) * x + G2["vp"](t) / (2 * s) * output.ravel()

    end = solve_ivp(slope, (t0, t1), start.ravel(), rtol=1e-8, atol=1e-10).y[:, -1]
    total = lambda t: 0.1 * t + 19.9 * t**2 / 2  # noqa: E731
    return end.reshape(start.shape), -(total(t1) - total(t0)) / 2


def test_samples_follow_the_class_with_guidance():
    net, y = ByClass(0.5), np.array([2, 0, 1, 1])
    variables = net.init(KEY, jnp.zeros((1, 2)), jnp.zeros(1), jnp.zeros((1, 3)))
    shift = np.asarray(variables["params"]["shift"], np.float64)
    start = np.asarray(rng.normal(KEY, (4, 2)), np.float64) * np.sqrt(1 - np.exp(-10.05))
    for w, condition, rows in ((0.5, y, y), (0.0, y, y), (0.0, None, [0, 1, 2, 0])):
        cfg = dataclasses.replace(LABELLED, guidance=w)
        x = score_sde.sample(cfg, variables, KEY, 4, condition=condition, net=net)
        want, _ = flow_of_class((1 + w) * shift[rows] + 0.5, start, 1.0, 0.01)
        np.testing.assert_allclose(x, want, rtol=1e-3, atol=2e-2)


def test_the_density_is_conditioned_without_guidance():
    """The flow of a constant ε̂ is affine: its divergence is f D."""
    net, y = ByClass(), np.array([2, 0, 1])
    cfg = dataclasses.replace(LABELLED, guidance=0.5)
    variables = net.init(KEY, jnp.zeros((1, 2)), jnp.zeros(1), jnp.zeros((1, 3)))
    shift = np.asarray(variables["params"]["shift"], np.float64)
    x = np.arange(6).reshape(3, 2) / 3
    for condition, output in ((y, shift[y]), (None, np.zeros((3, 2)))):
        end, stretch = flow_of_class(output, x, 0.01, 1.0)
        want = stats.norm.logpdf(end, 0, np.sqrt(1 - np.exp(-10.05))).sum(1) + 2 * stretch
        found = score_sde.log_prob(cfg, variables, np.float32(x), condition=condition, net=net)
        np.testing.assert_allclose(found, want, atol=5e-3)


# --- settings ------------------------------------------------------------------------------------


def test_evaluations_are_those_of_the_sampler():
    calls, sde = [], score_sde.vp()

    def score(x, t):
        calls.append(1)
        return -x

    with jax.disable_jit():
        score_sde.predictor_corrector(sde, score, KEY, (2, 1), np.array([1.0, 0.5, 0.1]), 3)
    assert len(calls) == 2 * (1 + 3)
    few = score_sde.with_evaluations(dataclasses.replace(CFG, sampler="pc"), 7)
    assert (few.sampler, few.solver, score_sde.evaluations(few)) == ("ode", "euler", 7)
    assert score_sde.with_evaluations(CFG, 8).solver == "heun"


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(sde="edm"), "Config.sde"),
        (dict(sampler="ddim"), "Config.sampler"),
        (dict(solver="dopri5"), "Config.solver"),
        (dict(t_min=0.0), "Config.t_min"),
        (dict(beta_start=30.0), "Config.beta_start = 30"),
        (dict(sigma_min=0.0), "Config.sigma_min"),
        (dict(snr=0.0), "Config.snr"),
        (dict(sample_steps=7), "sample_steps = 7; .* takes 2 evaluations"),
        (dict(sampler="pc", corrector_steps=2), "takes 3 evaluations"),
    ],
)
def test_an_impossible_config_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(CFG, **change)
