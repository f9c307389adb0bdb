"""Samplers with exact denoisers: what comes out is known."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.diffusion import ddpm, samplers
from tests.diffusion.test_ddpm import gaussian_denoiser


def mixture_denoiser(schedule, weights, means, std):
    """The exact E[ε | z_t] for Σ w_k N(m_k, std² I)."""
    alpha, rest = (jnp.asarray(a, jnp.float32) for a in schedule[1:])
    means = jnp.asarray(means, jnp.float32)

    def eps_fn(z, t):
        a, b = alpha[t - 1][:, None], rest[t - 1][:, None]
        variance = a * std**2 + b
        away = z[:, None] - jnp.sqrt(a)[..., None] * means  # [B, K, D]
        logits = jnp.log(jnp.asarray(weights)) - 0.5 * jnp.sum(away**2, -1) / variance
        r = jax.nn.softmax(logits, axis=1)
        return jnp.sqrt(b) / variance * jnp.einsum("bk,bkd->bd", r, away)

    return eps_fn


WEIGHTS, MEANS, STD = [0.2, 0.5, 0.3], [[-2.0, 0.0], [1.0, 1.5], [1.0, -1.5]], 0.3


@pytest.mark.parametrize("sampler", ["ancestral-beta", "ancestral-posterior", "ddim"])
def test_the_exact_denoiser_of_a_mixture_gives_the_mixture(sampler):
    schedule = ddpm.cosine_schedule(200)
    eps_fn = mixture_denoiser(schedule, WEIGHTS, MEANS, STD)
    num, key = 20_000, jax.random.key(0)
    if sampler == "ddim":
        x = samplers.ddim(eps_fn, schedule, key, (num, 2))
    else:
        x = samplers.ancestral(eps_fn, schedule, key, (num, 2), sampler.split("-")[1])
    rng = np.random.default_rng(0)
    real = [
        np.asarray(MEANS)[rng.choice(3, num, p=WEIGHTS)] + STD * rng.normal(size=(num, 2))
        for _ in range(2)
    ]
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
