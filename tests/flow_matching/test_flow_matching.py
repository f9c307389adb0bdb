"""Flow matching against velocities, densities and couplings that are known."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.optimize import linear_sum_assignment

from gengen import distributions as dist
from gengen import rng
from gengen.compile import compile_step
from gengen.contract import Task
from gengen.diffusion import exact as mixtures
from gengen.diffusion import ode
from gengen.errors import InputError
from gengen.flow_matching import exact, flow_matching

KEY = jax.random.key(0)
WEIGHTS, MEANS, STD = np.array([0.3, 0.7]), np.array([[-1.0, 0.5], [1.0, 0.0]]), 0.4
MIXTURE = mixtures.mixture(WEIGHTS, MEANS, STD)
CFG = flow_matching.Config(shape=(2,), hidden_dim=16, batch_size=16)


def test_the_exact_velocity_is_the_mean_of_x_minus_noise_given_z():
    """By importance weights of a million (x, ε): given z, x has weight p(ε = (z - t x)/(1-t))."""
    numbers, z, t = np.random.default_rng(0), np.array([0.3, -0.2]), 0.6
    x = MIXTURE.sample(numbers, 1_000_000)
    eps = (z - t * x) / (1 - t)
    w = np.exp(-0.5 * (eps**2).sum(1))
    draws = (w[:, None] * (x - eps)).reshape(100, -1, 2).sum(1) / w.reshape(100, -1).sum(1)[:, None]
    found = exact.velocity(MIXTURE)(jnp.asarray([z]), jnp.asarray([t]))[0]
    error = draws.std(0) / 10
    assert error.max() < 0.01
    np.testing.assert_allclose(found, draws.mean(0), atol=5 * error.max())


@pytest.mark.parametrize("solver", ode.SOLVERS)
def test_the_exact_velocity_of_a_mixture_gives_the_mixture(solver):
    x = np.asarray(ode.sample(exact.velocity(MIXTURE), KEY, (20_000, 2), 40, solver))
    mean, covariance = MIXTURE.moments()
    scale = covariance.max()
    np.testing.assert_allclose(x.mean(0), mean, atol=5 * (scale / 20_000) ** 0.5 + 0.01)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.06 * scale)
    share = np.mean(np.linalg.norm(x - MEANS[0], axis=1) < np.linalg.norm(x - MEANS[1], axis=1))
    nearer = MIXTURE.sample(np.random.default_rng(1), 200_000)
    want = np.mean(
        np.linalg.norm(nearer - MEANS[0], axis=1) < np.linalg.norm(nearer - MEANS[1], axis=1)
    )
    assert share == pytest.approx(want, abs=0.02)


@pytest.mark.parametrize("solver, order", [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4)])
def test_the_error_falls_at_the_order_of_the_solver(solver, order):
    with jax.enable_x64(True):
        velocity = exact.velocity(MIXTURE)
        start = jnp.asarray(np.random.default_rng(7).normal(size=(20, 2)))
        true = ode.transport(velocity, start, 400, "rk4")
        steps = (8, 16) if order == 4 else (32, 64)
        errors = [
            np.linalg.norm(np.asarray(ode.transport(velocity, start, n, solver) - true))
            for n in steps
        ]
    assert errors[1] > 1e-5  # the times are float32
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.4)


def test_transport_runs_back():
    z = jax.random.normal(KEY, (8, 2))
    u = exact.velocity(MIXTURE)
    x = ode.transport(u, z, 50, "rk4")
    assert np.abs(np.asarray(x - z)).max() > 0.5
    np.testing.assert_allclose(ode.transport(u, x, 50, "rk4", back=True), z, atol=1e-4)


def test_the_log_density_is_that_of_the_mixture():
    x = MIXTURE.sample(np.random.default_rng(2), 6)
    each = [stats.norm.logpdf(x, m, STD).sum(1) for m in MEANS]
    want = np.logaddexp(*(np.log(w) + part for w, part in zip(WEIGHTS, each, strict=True)))
    found = ode.log_density(exact.velocity(MIXTURE), jnp.float32(x), KEY, 60, "rk4")
    np.testing.assert_allclose(found, want, atol=2e-3)


def test_the_estimated_log_density_is_right_on_average(monkeypatch):
    """Hutchinson's signs: the mean over many probes is the trace; one probe is not."""
    x = jnp.float32(MIXTURE.sample(np.random.default_rng(3), 3))
    u = exact.velocity(MIXTURE)
    want = ode.log_density(u, x, KEY, 20, "rk4")
    monkeypatch.setattr(ode, "EXACT_DIMS", 1)
    one = ode.log_density(u, x, KEY, 20, "rk4")
    many = ode.log_density(u, x, KEY, 20, "rk4", probes=400)
    assert np.abs(np.asarray(one - want)).max() > 1e-3
    np.testing.assert_allclose(many, want, atol=0.15)


# --- training ------------------------------------------------------------------------------------


class Exact(nn.Module):
    """The velocity of N(0, s²), with a parameter that moves it."""

    s2: float

    @nn.compact
    def __call__(self, z, t, y, train=False):
        t = t[:, None]
        slope = (t * self.s2 - (1 - t)) / ((1 - t) ** 2 + t**2 * self.s2)
        return slope * z + self.param("shift", nn.initializers.zeros, (2,))


@pytest.mark.parametrize("time_sampling", flow_matching.TIME_SAMPLING)
def test_the_exact_velocity_has_the_least_loss(time_sampling):
    """It is E s²/σ_t² per dimension, and the gradient there is 0 up to the noise of the batch."""
    s2, num = 0.25, 20_000
    cfg = dataclasses.replace(CFG, batch_size=num, time_sampling=time_sampling, time_mean=0.5)
    x = np.float32(0.5 * np.random.default_rng(4).normal(size=(num, 2)))
    method = flow_matching.method(cfg, net=Exact(s2))
    state = method.init(KEY, {"x": x})
    metrics = method.train_step(KEY, state, {"x": x})[1]
    u = (np.arange(num) + 0.5) / num
    t = u if time_sampling == "uniform" else 1 / (1 + np.exp(-(0.5 + stats.norm.ppf(u))))
    want = np.mean(s2 / ((1 - t) ** 2 + t**2 * s2))
    assert float(metrics["loss"]) == pytest.approx(want, rel=0.05)
    assert float(metrics["gradient_norm"]) < 6 * np.sqrt(2 * want / num) * 2


def test_times_have_the_distribution_that_is_asked():
    cfg = dataclasses.replace(CFG, time_sampling="logit_normal", time_mean=-0.4, time_std=0.7)
    logit = jax.scipy.special.logit(flow_matching.times(cfg, KEY, 4000))
    assert float(logit.mean()) == pytest.approx(-0.4, abs=1e-3)
    assert float(logit.std()) == pytest.approx(0.7, abs=2e-3)
    t = np.sort(np.asarray(flow_matching.times(CFG, KEY, 100)))
    np.testing.assert_array_equal(np.floor(100 * t), np.arange(100))


def test_the_optimal_coupling_is_the_cheapest_and_uses_each_noise_once():
    cfg = dataclasses.replace(CFG, coupling="optimal")
    eps, x = rng.normal(jax.random.key(1), (32, 2)), 2 * rng.normal(jax.random.key(2), (32, 2)) + 1
    found = np.asarray(flow_matching.coupled(cfg, eps, x))
    np.testing.assert_array_equal(np.sort(found, 0), np.sort(np.asarray(eps), 0))
    cost = ((np.asarray(x, np.float64)[:, None] - np.asarray(eps, np.float64)[None]) ** 2).sum(-1)
    rows, columns = linear_sum_assignment(cost)
    paid = ((np.asarray(x, np.float64) - np.asarray(found, np.float64)) ** 2).sum()
    assert paid == pytest.approx(cost[rows, columns].sum(), rel=1e-5)
    assert paid < 0.7 * np.trace(cost)
    np.testing.assert_array_equal(flow_matching.coupled(CFG, eps, x), eps)


def test_an_assigned_noise_belongs_to_its_row():
    """Noise that lies on the data, in another order: each example gets its own back."""
    x = rng.normal(KEY, (8, 3))
    cfg = dataclasses.replace(CFG, shape=(3,), coupling="optimal")
    order = np.array([3, 0, 7, 1, 6, 2, 5, 4])
    np.testing.assert_array_equal(flow_matching.coupled(cfg, x[order], x), x)


def test_training_approaches_the_exact_velocity():
    """On the mixture, at points where z_t is likely."""
    x = MIXTURE.sample(np.random.default_rng(5), 4096).astype(np.float32)
    cfg = dataclasses.replace(CFG, hidden_dim=64, batch_size=256, learning_rate=5e-3,
                              lr_schedule="cosine", decay_steps=400)  # fmt: skip
    method = flow_matching.method(cfg)
    state, step = method.init(KEY, {"x": x[:256]}), compile_step(method.train_step)
    for i in range(400):
        rows = np.random.default_rng(i).integers(0, len(x), 256)
        state, _ = step(KEY, state, {"x": x[rows]})
    t = jnp.repeat(jnp.array([0.1, 0.5, 0.9]), 200)
    z = flow_matching.interpolate(rng.normal(KEY, (600, 2)), jnp.asarray(x[:600]), t)
    found = flow_matching.velocity(cfg, state.variables, jnp.zeros((600, 0)))(z, t)
    want = exact.velocity(MIXTURE)(z, t)
    error = np.sqrt(np.mean((np.asarray(found) - np.asarray(want)) ** 2) / np.mean(want**2))
    assert error < 0.15


# --- classes -------------------------------------------------------------------------------------


class ByClass(nn.Module):
    """A velocity that depends on nothing but the class: its parameter, plus `always`."""

    always: float = 0.0

    @nn.compact
    def __call__(self, z, t, y, train=False):
        shift = self.param("shift", nn.initializers.normal(1.0), (3, 2))
        return y @ shift + self.always + 0 * z


LABELLED = dataclasses.replace(CFG, num_classes=3, condition_dropout=0.25)


def test_training_gives_each_class_its_own_velocity():
    """Data are 5 · class: the loss is least where the parameter of class k is 5k, and no other."""
    labels = np.random.default_rng(6).integers(0, 3, 6000).astype(np.int32)
    x = np.float32(5.0 * labels[:, None] + np.zeros(2))
    cfg = dataclasses.replace(LABELLED, batch_size=6000, learning_rate=0.5, warmup_steps=0,
                              ema_decay=0.9)  # fmt: skip
    method = flow_matching.method(cfg, net=ByClass())
    batch = {"x": x, "label": labels}
    state, step = method.init(KEY, batch), compile_step(method.train_step)
    for _ in range(100):
        state, _ = step(KEY, state, batch)
    want = 5.0 * np.arange(3)[:, None] + np.zeros(2)
    np.testing.assert_allclose(state.params["shift"], want, atol=0.25)


def test_samples_follow_the_class_with_guidance():
    """z + û: with a class the velocity is its shift + 2, and without one 2."""
    cfg, net = dataclasses.replace(LABELLED, guidance=0.5), ByClass(2.0)
    y = np.array([2, 0, 1, 1])
    variables = net.init(KEY, jnp.zeros((1, 2)), jnp.zeros(1), jnp.zeros((1, 3)))
    start = rng.normal(KEY, (4, 2))
    shift = np.asarray(variables["params"]["shift"])
    for w, used in ((0.5, cfg), (0.0, LABELLED)):
        x = flow_matching.sample(used, variables, KEY, 4, condition=y, net=net)
        np.testing.assert_allclose(x, start + (1 + w) * shift[y] + 2, atol=1e-5)
    in_turn = flow_matching.sample(LABELLED, variables, KEY, 4, net=net)
    np.testing.assert_allclose(in_turn, start + shift[np.array([0, 1, 2, 0])] + 2, atol=1e-5)


def test_the_density_is_conditioned_without_guidance():
    """A constant velocity moves N(0, I) to N(shift, I)."""
    cfg, net, y = dataclasses.replace(LABELLED, guidance=0.5), ByClass(), np.array([2, 0, 1])
    variables = net.init(KEY, jnp.zeros((1, 2)), jnp.zeros(1), jnp.zeros((1, 3)))
    shift, x = np.asarray(variables["params"]["shift"]), np.float32(np.arange(6).reshape(3, 2) / 3)
    found = flow_matching.log_prob(cfg, variables, x, condition=y, net=net)
    np.testing.assert_allclose(found, stats.norm.logpdf(x - shift[y]).sum(1), atol=1e-4)
    without = flow_matching.log_prob(cfg, variables, x, net=net)
    np.testing.assert_allclose(without, stats.norm.logpdf(x).sum(1), atol=1e-4)


def test_the_log_prob_of_images_is_of_their_pixels():
    """û = 0: p is N(0, I), of pixels of width 2/256 that are dequantised upwards."""

    class Still(nn.Module):
        @nn.compact
        def __call__(self, z, t, y, train=False):
            return 0 * z

    cfg = dataclasses.replace(CFG, shape=(4, 4, 1))
    x = np.full((2, 4, 4, 1), 255 / 127.5 - 1, np.float32)  # level 255 of 0..255: [1 - 2/256, 1]
    found = flow_matching.log_prob(cfg, {}, x, KEY, net=Still())
    width, middle = 2 / 256, 1 - 1 / 256
    want = 16 * (np.log(width) + stats.norm.logpdf(middle))
    # The slope of ln p is 1, so 16 uniform numbers in their levels are off by 0.002 each at most.
    np.testing.assert_allclose(found, want, atol=16 * 2e-3)


# --- settings ------------------------------------------------------------------------------------


def test_evaluations_are_those_of_the_solver():
    calls = []

    def u(z, t):
        calls.append(1)
        return z

    for solver in ode.SOLVERS:
        calls.clear()
        ode.sample(u, KEY, (1, 1), 3, solver)
        assert len(calls) == ode.evaluations_per_step(solver)  # the scan traces a step once
    cfg = flow_matching.with_evaluations(CFG, 7)
    assert (cfg.solver, flow_matching.evaluations(cfg)) == ("euler", 7)
    assert flow_matching.with_evaluations(CFG, 8).solver == "midpoint"


def test_defaults_fit_the_data():
    cfg = flow_matching.Config.for_task(Task((28, 28, 1), 10, steps=500))
    assert cfg.shape == (28, 28, 1) and cfg.decay_steps == 500 and cfg.num_classes == 0
    assert flow_matching.Config.for_task(Task((2,))).shape == (2,)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(sample_steps=5), "sample_steps = 5; the solver midpoint evaluates 2 times"),
        (dict(solver="dopri5"), "Config.solver"),
        (dict(coupling="exact"), "Config.coupling"),
        (dict(time_sampling="cosine"), "Config.time_sampling"),
        (dict(time_std=0.0), "Config.time_std"),
        (dict(num_classes=3, guidance=1.0, condition_dropout=0.0), "Config.guidance"),
        (dict(shape=(2, 2)), "Config.shape"),
    ],
)
def test_an_impossible_config_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(CFG, **change)


def test_a_missing_label_is_named():
    method = flow_matching.method(LABELLED)
    with pytest.raises(InputError, match="no labels"):
        method.train_step(KEY, method.init(KEY, {"x": np.zeros((4, 2)), "label": np.zeros(4, int)}),
                          {"x": np.zeros((4, 2), np.float32)})  # fmt: skip
    assert dist.standard_normal(jnp.zeros((1, 2))).shape == (1,)
