"""Posteriors that are known: of Gaussians and of mixtures of them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gengen.diffusion import ddpm, exact, inverse, operators
from gengen.diffusion.inverse import Measurement
from gengen.diffusion.schedule import from_betas
from tests.diffusion.test_ddpm import gaussian_denoiser
from tests.diffusion.test_samplers import MEANS, MIXTURE, STD, WEIGHTS

A = np.array([[1.0, 0.5]])
Y, NOISE = np.array([[0.8]]), 0.4


def standard_denoiser(schedule):
    """Of N(0, I): E[ε | z] = √(1-ᾱ) z."""
    rest = jnp.asarray(np.sqrt(schedule.one_minus_alpha_bars), jnp.float32)
    return lambda z, t: rest[t - 1].reshape(-1, *(1,) * (z.ndim - 1)) * z


def test_denoiser_and_posterior_are_those_of_sums_over_a_grid():
    """E[ε | z] and the moments of p(x|y), in float64, by adding up p(x) p(z|x) and p(x) p(y|x)."""
    line = np.linspace(-5, 5, 401)
    x = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    away = ((x[:, None] - np.array(MEANS)) ** 2).sum(-1)
    p = np.exp(-0.5 * away / STD**2) @ np.array(WEIGHTS)
    schedule, t, z = ddpm.cosine_schedule(20), 9, np.array([0.4, -0.3])
    a, b = schedule.alpha_bars[t - 1], schedule.one_minus_alpha_bars[t - 1]
    w = p * np.exp(-0.5 * ((z - np.sqrt(a) * x) ** 2).sum(-1) / b)
    eps = (z - np.sqrt(a) * (w @ x) / w.sum()) / np.sqrt(b)
    eps_fn = exact.denoiser(MIXTURE, schedule)
    got = eps_fn(jnp.asarray(z[None], jnp.float32), jnp.array([t]))[0]
    np.testing.assert_allclose(got, eps, atol=1e-5)
    w = p * np.exp(-0.5 * ((Y[0] - x @ A.T) ** 2).sum(-1) / NOISE**2)
    mean = w @ x / w.sum()
    covariance = np.einsum("n,ni,nj->ij", w, x - mean, x - mean) / w.sum()
    found = exact.posterior(MIXTURE, A, Y[0], NOISE)
    np.testing.assert_allclose(found.moments()[0], mean, atol=1e-6)
    np.testing.assert_allclose(found.moments()[1], covariance, atol=1e-6)
    drawn = found.sample(np.random.default_rng(0), 100_000)
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.03)


@pytest.mark.parametrize("method", [inverse.pigdm, inverse.twisted])
def test_guidance_by_the_pseudo_inverse_is_exact_for_a_standard_normal(method):
    schedule = ddpm.cosine_schedule(300)
    measurement, num = Measurement(operators.matrix(A), Y, NOISE), 20_000
    draw = jax.jit(
        lambda key: method(standard_denoiser(schedule), schedule, key, (num, 2), measurement)
    )
    x = np.asarray(draw(jax.random.key(0)))
    standard = exact.mixture(np.ones(1), np.zeros((1, 2)), 1.0)
    mean, covariance = exact.posterior(standard, A, Y[0], NOISE).moments()
    # 300 steps leave a bias of the order 1/300, and 20,000 samples an error of 0.007.
    np.testing.assert_allclose(x.mean(0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.03)


@pytest.mark.slow
def test_the_twisted_error_falls_with_the_particles_and_the_others_stay():
    """RMS error of the posterior mean over runs; measurement: 0.65 and 0.06, the others at 0.6."""
    schedule = ddpm.cosine_schedule(100)
    eps_fn = exact.denoiser(MIXTURE, schedule)
    measurement = Measurement(operators.matrix(A), Y, NOISE)
    mean, _ = exact.posterior(MIXTURE, A, Y[0], NOISE).moments()

    def error(method, num, runs):
        draw = jax.jit(
            jax.vmap(lambda key: method(eps_fn, schedule, key, (num, 2), measurement).mean(0))
        )
        found = np.asarray(draw(jax.random.split(jax.random.key(1), runs)))
        return np.sqrt(np.mean(np.sum((found - mean) ** 2, -1)))

    few, many = error(inverse.twisted, 8, 64), error(inverse.twisted, 4096, 8)
    biased = [error(m, 1024, 2) for m in (inverse.pigdm, inverse.dps, inverse.replacement)]
    assert many < 0.15 and few > 3 * many and min(biased) > 3 * many


def test_one_step_of_dps_by_hand():
    """N(0, ¼) and A = 1: x̂₀ = √ᾱ v z/(ᾱ v + 1-ᾱ), so that ∇‖y - x̂₀‖ is its slope and a sign."""
    schedule, y = ddpm.linear_schedule(8), np.array([[3.0]])
    eps_fn, key, shape = gaussian_denoiser(schedule), jax.random.key(0), (5, 1)
    measurement = Measurement(operators.matrix(np.eye(1)), y)
    plain, pulled = (
        np.asarray(inverse.dps(eps_fn, schedule, key, shape, measurement, [8, 7], zeta))
        for zeta in (0.0, 0.3)
    )
    alpha, rest = schedule.alpha_bars[7], schedule.one_minus_alpha_bars[7]
    slope = np.sqrt(alpha) * 0.25 / (alpha * 0.25 + rest)
    np.testing.assert_allclose(pulled - plain, 0.3 * slope, atol=1e-5)


SHAPE = (8, 8, 1)
OPERATORS = {
    "inpaint": operators.inpaint(np.arange(64).reshape(SHAPE) < 32),
    "box": operators.box(SHAPE, 2),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("method", inverse.METHODS)
def test_samples_agree_with_the_measurement(method, name):
    """Of N(0, I): a draw knows nothing of y, and misses it by √2; these come near it."""
    schedule, op = ddpm.cosine_schedule(50), OPERATORS[name]
    x = jax.random.normal(jax.random.key(5), (1, *SHAPE))
    measurement = Measurement(op, op.forward(x), 0.05)
    draw = partial(inverse.METHODS[method], standard_denoiser(schedule), schedule)
    drawn = draw(jax.random.key(0), (16, *SHAPE), measurement)
    assert drawn.shape == (16, *SHAPE)
    error = jnp.sqrt(jnp.mean((op.forward(drawn) - measurement.y) ** 2))
    floor = jnp.sqrt(jnp.mean(jnp.square(measurement.y)))
    assert error < 0.5 * floor
    if method == "replacement":
        np.testing.assert_allclose(op.forward(drawn), jnp.repeat(measurement.y, 16, 0), atol=1e-4)
    if method != "twisted":  # whose particles descend from few
        assert jnp.std(drawn, axis=0).max() > 0.3


@pytest.mark.parametrize("repeats", [1, 3])
def test_replaced_pixels_are_those_of_the_forward_process(repeats):
    """Whenever the denoiser is asked, z_t of a measured pixel is N(√ᾱ_t y, 1-ᾱ_t)."""
    schedule, y, asked = ddpm.cosine_schedule(8), 1.7, []
    eps_fn = standard_denoiser(schedule)

    def noted(z, t):
        jax.debug.callback(lambda t, z: asked.append((int(t), np.array(z))), t[0], z[:, 0, 0, 0])
        return eps_fn(z, t)

    measurement = Measurement(
        operators.inpaint(np.array([[[True], [False]]])), np.full((1, 1, 2, 1), y)
    )
    shape = (20_000, 1, 2, 1)
    drawn = inverse.replacement(
        noted, schedule, jax.random.key(0), shape, measurement, repeats=repeats
    )
    jax.block_until_ready(drawn)
    jax.effects_barrier()
    assert len(asked) == 8 * repeats
    for t, z in asked:
        alpha, rest = schedule.alpha_bars[t - 1], schedule.one_minus_alpha_bars[t - 1]
        assert z.mean() == pytest.approx(np.sqrt(alpha) * y, abs=0.03)
        assert z.var() == pytest.approx(rest, abs=0.04)
    np.testing.assert_allclose(drawn[:, 0, 0, 0], y, atol=1e-5)


SINGULAR = {  # operators whose range is not all of y's space, and something outside it
    "inpaint": (OPERATORS["inpaint"], np.arange(64).reshape(1, *SHAPE) >= 32),
    # The mean of two neighbours: a chessboard has none.
    "convolve": (
        operators.convolve(SHAPE, np.array([[0.5, 0.5, 0.0]])),
        (-1.0) ** np.indices(SHAPE).sum(0)[None],
    ),
    "matrix": (operators.matrix(np.array([[1.0, 2.0], [2.0, 4.0]])), np.array([[2.0, -1.0]])),
}


@pytest.mark.parametrize("name", SINGULAR)
@pytest.mark.parametrize("method", inverse.METHODS)
def test_what_no_x_gives_changes_no_sample(method, name):
    schedule, (op, outside) = ddpm.cosine_schedule(20), SINGULAR[name]
    np.testing.assert_allclose(op.adjoint(jnp.asarray(outside, jnp.float32)), 0, atol=1e-6)
    shape = outside.shape[1:]
    y = op.forward(jax.random.normal(jax.random.key(1), (1, *shape)))
    draw = partial(inverse.METHODS[method], standard_denoiser(schedule), schedule)
    samples = [
        np.asarray(draw(jax.random.key(0), (8, *shape), Measurement(op, y + c * outside, 0.05)))
        for c in (0.0, 0.7)
    ]
    np.testing.assert_allclose(samples[0], samples[1], atol=1e-4)


@pytest.mark.parametrize("method", inverse.METHODS)
def test_every_sample_starts_from_noise_of_its_own(method):
    """With one step, and nothing measured, samples differ by their start alone."""
    schedule = from_betas(np.array([0.5]))
    nothing = Measurement(operators.inpaint(np.zeros(SHAPE, bool)), np.zeros((1, *SHAPE)), 1.0)
    draw = inverse.METHODS[method]
    x = draw(standard_denoiser(schedule), schedule, jax.random.key(0), (8, *SHAPE), nothing)
    assert np.asarray(x).std(0).min() > 0.1


def test_an_inverse_sampler_is_one_program():
    schedule = ddpm.cosine_schedule(20)
    measurement = Measurement(operators.matrix(A), Y, NOISE)
    for method in inverse.METHODS.values():
        draw = jax.jit(
            partial(
                method, standard_denoiser(schedule), schedule, shape=(4, 2), measurement=measurement
            )
        )
        jaxpr = str(jax.make_jaxpr(draw)(jax.random.key(0)))
        assert "callback" not in jaxpr
        key = jax.device_put(jax.random.key(0))
        draw(key)
        with jax.transfer_guard("disallow"):
            draw(key)


def test_what_makes_no_sense_is_refused():
    schedule = ddpm.cosine_schedule(20)
    eps_fn, key = standard_denoiser(schedule), jax.random.key(0)
    measurement = Measurement(operators.matrix(A), Y)
    with pytest.raises(ValueError, match="repeats"):
        inverse.replacement(eps_fn, schedule, key, (1, 2), measurement, repeats=0)
    with pytest.raises(ValueError, match="2 measurements"):
        inverse.twisted(eps_fn, schedule, key, (4, 2), measurement._replace(y=np.zeros((2, 1))))
