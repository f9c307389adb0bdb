"""Samplers with exact denoisers: what comes out is known."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen import rng
from gengen.diffusion import ddpm, exact, samplers
from gengen.diffusion.schedule import from_betas
from tests.diffusion.test_ddpm import gaussian_denoiser

WEIGHTS, MEANS, STD = [0.2, 0.5, 0.3], [[-2.0, 0.0], [1.0, 1.5], [1.0, -1.5]], 0.3
MIXTURE = exact.mixture(np.array(WEIGHTS), np.array(MEANS), STD)


@pytest.mark.parametrize("sampler", ["ancestral-beta", "ancestral-posterior", "ddim"])
def test_the_exact_denoiser_of_a_mixture_gives_the_mixture(sampler):
    schedule = ddpm.cosine_schedule(200)
    eps_fn = exact.denoiser(MIXTURE, schedule)
    num, key = 20_000, jax.random.key(0)
    if sampler == "ddim":
        x = samplers.ddim(eps_fn, schedule, key, (num, 2))
    else:
        x = samplers.ancestral(eps_fn, schedule, key, (num, 2), sampler.split("-")[1])
    numbers = np.random.default_rng(0)
    real = [MIXTURE.sample(numbers, num) for _ in range(2)]
    floor = sliced_wasserstein(real[0], real[1])
    # The floor is the distance of two real sets of that size. 200 steps leave a bias of their own,
    # of the order 1/T; a wrong σ or mean is ten times further away.
    assert sliced_wasserstein(np.asarray(x), real[0]) < floor + 0.03


def sliced_wasserstein(a, b, directions=64):
    angles = np.pi * (np.arange(directions) + 0.5) / directions
    u = np.stack([np.cos(angles), np.sin(angles)])
    return np.mean(np.abs(np.sort(a @ u, 0) - np.sort(b @ u, 0)))


@pytest.mark.parametrize("schedule", [ddpm.linear_schedule(30), ddpm.cosine_schedule(30)])
def test_ddim_with_all_the_noise_and_all_steps_is_ancestral(schedule):
    eps_fn = gaussian_denoiser(schedule)
    key, shape = jax.random.key(3), (64, 2)
    a = samplers.ancestral(eps_fn, schedule, key, shape, "posterior")
    b = samplers.ddim(eps_fn, schedule, key, shape, eta=1.0)
    # Equal but for the rounding of coefficients: 1/√(1-β_T) = 32 of the cosine magnifies it.
    np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("variance", ["beta", "posterior", "unit"])
def test_ancestral_has_the_variance_of_the_recursion_by_hand(variance):
    """On N(0, ¼) every step is linear in z: var ← gain² var + σ²."""
    schedule = ddpm.linear_schedule(20)
    beta, alpha, rest = schedule
    previous_rest = np.append(0.0, rest[:-1])
    sigma2 = {
        "beta": beta,
        "posterior": beta * previous_rest / rest,
        "unit": beta**2 / ((1 - beta) * rest),
    }[variance]
    var = 1.0
    for t in range(20, 0, -1):
        i = t - 1
        gain = (1 - beta[i] / (alpha[i] * 0.25 + rest[i])) / np.sqrt(1 - beta[i])
        var = gain**2 * var + (sigma2[i] if t > 1 else 0.0)
    x = samplers.ancestral(
        gaussian_denoiser(schedule), schedule, jax.random.key(0), (50_000, 1), variance
    )
    assert np.var(x) == pytest.approx(var, rel=4 * np.sqrt(2 / 50_000))


def test_ddim_is_exact_by_hand_and_deterministic():
    schedule = ddpm.cosine_schedule(40)
    eps_fn = gaussian_denoiser(schedule)
    x = samplers.ddim(eps_fn, schedule, jax.random.key(0), (16, 1), steps=4)
    z = np.asarray(
        samplers.ddim(lambda z, t: jnp.zeros_like(z), schedule, jax.random.key(0), (16, 1), 40),
        np.float64,
    ) * np.sqrt(schedule.alpha_bars[-1])  # ε̂ = 0 divides by √ᾱ_T in all: the start again
    alphas = np.append(1.0, schedule.alpha_bars)
    for t, s in [(40, 30), (30, 20), (20, 10), (10, 0)]:
        a, a_s = alphas[t], alphas[s]
        eps = np.sqrt(1 - a) * z / (a * 0.25 + 1 - a)
        z = np.sqrt(a_s) * (z - np.sqrt(1 - a) * eps) / np.sqrt(a) + np.sqrt(1 - a_s) * eps
    np.testing.assert_allclose(x, z, atol=1e-4)  # 1/√ᾱ_T ~ 800 magnifies float32


def test_fewer_steps_are_worse_and_all_are_evaluated():
    schedule = ddpm.cosine_schedule(64)
    key, errors = jax.random.key(0), []
    for steps in (4, 16, 64):
        x = samplers.ddim(gaussian_denoiser(schedule), schedule, key, (4000, 1), steps)
        errors.append(abs(float(np.std(x)) - 0.5))
    assert errors[0] > errors[1] > errors[2]


def test_clip_denoised_bounds_the_guess_of_the_data():
    schedule = ddpm.cosine_schedule(20)
    wild = samplers.clip_denoised(lambda z, t: 5 * z, schedule)
    z, t = jax.random.normal(jax.random.key(0), (20, 3)), jnp.arange(1, 21)
    a, b = (np.sqrt(v)[:, None] for v in (schedule.alpha_bars, schedule.one_minus_alpha_bars))
    x0 = (np.asarray(z) - b * np.asarray(wild(z, t))) / a
    assert np.abs(x0[:15]).max() <= 1 + 1e-4  # past that 1/√ᾱ_t magnifies rounding
    tame = gaussian_denoiser(schedule, 1e-4)
    np.testing.assert_allclose(samplers.clip_denoised(tame, schedule)(z, t), tame(z, t), atol=1e-4)


def test_a_sampler_is_one_program_with_no_host_round_trip():
    schedule = ddpm.linear_schedule(100)
    draw = jax.jit(
        lambda key: samplers.ancestral(gaussian_denoiser(schedule), schedule, key, (4, 2))
    )
    jaxpr = str(jax.make_jaxpr(draw)(jax.random.key(0)))
    assert jaxpr.count("scan[") == 1 and "callback" not in jaxpr
    key = jax.device_put(jax.random.key(0))
    draw(key)
    with jax.transfer_guard("disallow"):
        draw(key)
    chex.assert_tree_all_finite(draw(key))


def first_noise(key, shape):
    """What the samplers start from."""
    return np.asarray(rng.normal(jax.random.fold_in(key, 0), shape), np.float64)


@pytest.mark.parametrize(("sampler", "order"), [(samplers.ddim, 1), (samplers.multistep, 2)])
def test_the_error_falls_at_the_order_of_the_solver(sampler, order):
    """Nested grids from T to t = 1, against the flow's own end.

    Along the flow of N(m, v) a point keeps its place, (z - √ᾱ m)/√(ᾱ v + 1-ᾱ): the end is known.
    ᾱ is a smooth curve through T = 4096 points: λ evenly spaced, so that the order shows early.
    """
    T, mean, variance = 4096, 0.7, 0.25
    lam = np.linspace(4, -4, T + 1)
    alphas = 1 / (1 + np.exp(-2 * lam))
    schedule = ddpm.from_betas(np.append(1 - alphas[0], 1 - alphas[1:-1] / alphas[:-2]))
    alpha, rest = schedule.alpha_bars, schedule.one_minus_alpha_bars

    def eps_fn(z, t):
        a, b = (jnp.asarray(v, jnp.float32)[t - 1][:, None] for v in (alpha, rest))
        return jnp.sqrt(b) * (z - jnp.sqrt(a) * mean) / (a * variance + b)

    key, shape, errors = jax.random.key(0), (64, 1), []
    start = first_noise(key, shape)
    place = (start - np.sqrt(alpha[-1]) * mean) / np.sqrt(alpha[-1] * variance + rest[-1])
    end = np.sqrt(alpha[0]) * mean + np.sqrt(alpha[0] * variance + rest[0]) * place
    for steps in (16, 32, 64):
        x = sampler(eps_fn, schedule, key, shape, np.linspace(T, 1, steps + 1).round().astype(int))
        errors.append(np.abs(np.asarray(x) - end).max())
    rates = np.log2(np.asarray(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(rates, order, atol=0.35)


def test_the_second_order_solver_by_hand():
    """Three steps of λ's own, in float64; the first and the last, to t = 0, are ddim's."""
    schedule = ddpm.cosine_schedule(40)
    eps_fn, key, shape = gaussian_denoiser(schedule), jax.random.key(0), (16, 1)
    times = [30, 20, 8, 0]
    x = samplers.multistep(eps_fn, schedule, key, shape, times)
    z = first_noise(key, shape)
    alphas, lam, before = np.append(1.0, schedule.alpha_bars), {}, None
    for t in times[:-1]:
        lam[t] = np.log(np.sqrt(alphas[t]) / np.sqrt(1 - alphas[t]))
    for i, (t, s) in enumerate(zip(times, times[1:], strict=False)):
        a, a_s = alphas[t], alphas[s]
        eps = np.sqrt(1 - a) * z / (a * 0.25 + 1 - a)
        x0 = (z - np.sqrt(1 - a) * eps) / np.sqrt(a)
        if i in (0, len(times) - 2):
            z = np.sqrt(a_s) * x0 + np.sqrt(1 - a_s) * eps
        else:
            h, last = lam[s] - lam[t], lam[t] - lam[times[i - 1]]
            d = x0 + (x0 - before) * h / (2 * last)
            z = np.sqrt((1 - a_s) / (1 - a)) * z - np.sqrt(a_s) * (np.exp(-h) - 1) * d
        before = x0
    np.testing.assert_allclose(x, z, atol=1e-5)


def test_fewer_steps_of_the_second_order_solver_do_as_well():
    schedule = ddpm.cosine_schedule(1000)
    eps_fn, errors = exact.denoiser(MIXTURE, schedule), {}
    key, shape = jax.random.key(0), (2000, 2)
    whole = np.asarray(samplers.ddim(eps_fn, schedule, key, shape))
    for sampler in (samplers.ddim, samplers.multistep):
        x = np.asarray(sampler(eps_fn, schedule, key, shape, 25))
        errors[sampler.__name__] = np.sqrt(np.mean((x - whole) ** 2))
    assert errors["multistep"] < errors["ddim"] / 2


def test_guidance_is_the_sum_of_two_guesses():
    def both(z, t):
        assert z.shape == (8, 2) and t.shape == (8,)
        return z * jnp.where(jnp.arange(8) < 4, 2.0, 3.0)[:, None]

    z, t = jax.random.normal(jax.random.key(0), (4, 2)), jnp.ones(4, jnp.int32)
    np.testing.assert_allclose(samplers.guided(both, 0.5)(z, t), 1.5 * 2 * z - 0.5 * 3 * z)
    np.testing.assert_array_equal(samplers.guided(both, 0.0)(z, t), 2 * z)


def test_guidance_on_a_gaussian_is_known():
    """p(z|y) (p(z|y)/p(z))^w of p(x|y) = N(±1, v), p(x) = N(0, v + 1), in one step of precision.

    At t → 0 the score is that of N(m', v'), 1/v' = (1+w)/v - w/(v+1), m' = v' (1+w) y/v: the
    flow's end is not exactly that law, but its denoiser is, which is what is tested.
    """
    schedule, v, w = ddpm.cosine_schedule(50), 0.3, 0.7
    a, b = (
        jnp.asarray(c, jnp.float32) for c in (schedule.alpha_bars, schedule.one_minus_alpha_bars)
    )

    def both(z, t):
        at, bt = (c[t - 1][:, None] for c in (a, b))
        given = jnp.arange(len(z))[:, None] < len(z) // 2
        mean, variance = jnp.where(given, 1.0, 0.0), jnp.where(given, v, v + 1)
        return jnp.sqrt(bt) * (z - jnp.sqrt(at) * mean) / (at * variance + bt)

    z, t = jnp.linspace(-2, 2, 9)[:, None], jnp.full(9, 7)
    at, bt = float(a[6]), float(b[6])
    precision = (1 + w) / (at * v + bt) - w / (at * (v + 1) + bt)
    mean = (1 + w) * np.sqrt(at) / (at * v + bt) / precision
    expected = np.sqrt(bt) * (np.asarray(z) - mean) * precision
    np.testing.assert_allclose(samplers.guided(both, w)(z, t), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [[5, 7], [11, 0], [5], [3, -1]])
def test_impossible_times_are_refused(steps):
    with pytest.raises(ValueError, match="steps"):
        samplers.timesteps(ddpm.linear_schedule(10), steps)


@pytest.mark.parametrize("steps", [0, 11])
def test_impossible_steps_are_refused(steps):
    schedule = ddpm.linear_schedule(10)
    with pytest.raises(ValueError, match="steps"):
        samplers.ddim(gaussian_denoiser(schedule), schedule, jax.random.key(0), (1, 1), steps)


def test_impossible_noise_is_refused():
    schedule = ddpm.linear_schedule(10)
    with pytest.raises(ValueError, match="eta"):
        samplers.ddim(gaussian_denoiser(schedule), schedule, jax.random.key(0), (1, 1), eta=-1.0)
    with pytest.raises(ValueError, match="variance"):
        samplers.ancestral(
            gaussian_denoiser(schedule), schedule, jax.random.key(0), (1, 1), "small"
        )


def test_the_last_ancestral_step_adds_no_noise():
    """A denoiser that knows the data are 0: whatever the noise before, the last mean is 0."""
    schedule = from_betas(np.array([0.5, 0.9]))

    def eps_fn(z, t):
        return z / jnp.sqrt(jnp.asarray(schedule.one_minus_alpha_bars))[t - 1][:, None]

    x = samplers.ancestral(eps_fn, schedule, jax.random.key(0), (64, 2), "beta")
    np.testing.assert_allclose(x, 0, atol=1e-6)


@pytest.mark.parametrize("eta", [0.5, 0.8])
def test_ddim_has_the_noise_of_its_eta(eta):
    """On N(0, ¼) the variance is the recursion with σ = η √((1-ᾱ_s)/(1-ᾱ_t)) √(1 - ᾱ_t/ᾱ_s)."""
    schedule = ddpm.cosine_schedule(20)
    alphas, var = np.append(1.0, schedule.alpha_bars), 1.0
    for t, s in [(20, 15), (15, 10), (10, 5), (5, 0)]:
        a, b = alphas[t], alphas[s]
        sigma = eta * np.sqrt((1 - b) / (1 - a) * (1 - a / b))
        slope = np.sqrt(1 - a) / (a * 0.25 + 1 - a)  # of ε̂ in z
        gain = np.sqrt(b / a) * (1 - np.sqrt(1 - a) * slope) + np.sqrt(1 - b - sigma**2) * slope
        var = gain**2 * var + sigma**2
    key = jax.random.key(0)
    x = samplers.ddim(gaussian_denoiser(schedule), schedule, key, (50_000, 1), 4, eta)
    assert np.var(x) == pytest.approx(var, rel=4 * np.sqrt(2 / 50_000))
