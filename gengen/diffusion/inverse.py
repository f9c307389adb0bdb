r"""Inverse problems: sample p(x|y) for a measurement y = Ax + σ_y n, with an unconditional p(x).

The denoiser of p(z_t|y) is ε' = ε̂ - √(1-ᾱ_t) ∇_z ln p(y|z_t). The likelihood p(y|z_t) is
intractable; the methods differ in how they approximate it. x̂₀(z_t) = E[x|z_t] is the denoiser's.

    replacement   the measured part of z_s is replaced by a sample of q(z_s|y) after each step, and
                  each step is repeated `repeats` times: RePaint, Lugmayr et al. 2022 (2201.09865),
                  for any A
    dps           z_s - ζ ∇_z ‖y - A x̂₀‖: Chung et al. 2023 (2209.14687)
    pigdm         p(y|z_t) ≈ N(A x̂₀, r_t² AAᵀ + σ_y² I), r_t² = 1-ᾱ_t: Song et al. 2023, *Pseudo-
                  inverse-Guided Diffusion Models* (ICLR); exact if p(x) = N(0, I)
    twisted       the same approximation as the proposal of a particle filter, which weights and
                  resamples the particles: Wu et al. 2023 (2306.17775). As the number of particles
                  grows, the samples converge to p(x|y), whatever the approximation

The first three are biased; docs/DIFFUSION.md has their errors where p(x|y) is known. Each is one
`lax.scan`; `steps` are as in `samplers.ddim`, with all of its noise (η = 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gengen import rng
from gengen.diffusion.operators import Operator
from gengen.diffusion.samplers import EpsFn, Steps, timesteps
from gengen.diffusion.schedule import Schedule
from gengen.types import Array, InputError, Key, Shape

MIN_NOISE = 1e-3  # lower bound of σ_y where it divides


class Measurement(NamedTuple):
    """A measurement of x: y = Ax + σ_y n.

    Attributes:
        operator: A.
        y: one [1, ...] for all samples, or one for each sample [B, ...].
        noise: σ_y.
    """

    operator: Operator
    y: ArrayLike
    noise: float = 0.0


class Move(NamedTuple):
    """The coefficients of a step from z_t = a x + b ε to z_s = a_s x + b_s ε, s < t; float32."""

    t: Array
    a: Array
    b: Array
    a_s: Array
    b_s: Array
    of_x: Array  # E[z_s | z_t, x] = of_x x + of_z z_t
    of_z: Array
    sigma: Array  # its standard deviation: √β̃
    keep: Array  # z_t = keep z_s + forget n, forward
    forget: Array


def moves(schedule: Schedule, steps: Steps) -> Move:
    """Return the steps from T to the end: fields [steps]."""
    times = timesteps(schedule, steps)
    alpha = np.append(1.0, schedule.alpha_bars)[times]
    rest = np.append(0.0, schedule.one_minus_alpha_bars)[times]
    ratio, share = alpha[:-1] / alpha[1:], rest[1:] / rest[:-1]
    fields = (
        np.sqrt(alpha[:-1]), np.sqrt(rest[:-1]), np.sqrt(alpha[1:]), np.sqrt(rest[1:]),
        np.sqrt(alpha[1:]) * (1 - ratio) / rest[:-1], np.sqrt(ratio) * share,
        np.sqrt(share * (1 - ratio)), np.sqrt(ratio), np.sqrt(1 - ratio),
    )  # fmt: skip
    return Move(jnp.asarray(times[:-1], jnp.int32), *(jnp.asarray(f, jnp.float32) for f in fields))


def _denoised(eps_fn: EpsFn, z: Array, now: Move) -> Array:
    """Return x̂₀(z_t)."""
    return (z - now.b * eps_fn(z, jnp.full(len(z), now.t))) / now.a


def _scan(
    step: Callable[[Array, Move, Key], Array], schedule: Schedule, key: Key, shape: Shape,
    steps: Steps,
) -> Array:  # fmt: skip
    def one(z: Array, now: Move) -> tuple[Array, None]:
        return step(z, now, jax.random.fold_in(key, now.t)).astype(z.dtype), None

    start = rng.normal(jax.random.fold_in(key, 0), shape)
    return jax.lax.scan(one, start, moves(schedule, steps))[0]


def _each(total: Array) -> Array:
    """Return the sums over all axes but the first: [B]."""
    return total.reshape(len(total), -1).sum(1)


# --- the methods ---------------------------------------------------------------------------------


def replacement(
    eps_fn: EpsFn, schedule: Schedule, key: Key, shape: Shape, measurement: Measurement,
    steps: Steps = None, repeats: int = 5,
) -> Array:  # fmt: skip
    """Sample by replacing the measured part of z after each step: [B, ...].

    Args:
        eps_fn: the denoiser of p(x).
        schedule: of the forward process.
        key: of all noise.
        shape: [B, ...] of the samples.
        measurement: of x; its noise is not used.
        steps: as in `samplers.ddim`.
        repeats: how often each step is made, with noise added back in between, so that both parts
            become consistent; at least 1.
    """
    if repeats < 1:
        raise InputError(f"repeats = {repeats}; it must be at least 1")
    A, y, _ = measurement

    def step(z: Array, now: Move, key: Key) -> Array:
        def once(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            z, _ = carry
            own, theirs, back = (rng.normal(k, shape) for k in _keys(jax.random.fold_in(key, i), 3))
            x = _denoised(eps_fn, z, now)
            z_s = now.of_x * x + now.of_z * z + now.sigma * own
            z_s = A.project(z_s, now.a_s * jnp.asarray(y) + now.b_s * A.forward(theirs))
            return now.keep * z_s + now.forget * back, z_s

        return jax.lax.fori_loop(0, repeats, once, (z, z))[1]

    return _scan(step, schedule, key, shape, steps)


def _keys(key: Key, num: int) -> Key:
    return jax.random.split(key, num)


def dps(
    eps_fn: EpsFn, schedule: Schedule, key: Key, shape: Shape, measurement: Measurement,
    steps: Steps = None, zeta: float = 1.0,
) -> Array:  # fmt: skip
    """Sample with the gradient of the distance from y, regardless of σ_y: [B, ...].

    Args:
        eps_fn: the denoiser of p(x).
        schedule: of the forward process.
        key: of all noise.
        shape: [B, ...] of the samples.
        measurement: of x; its noise is not used.
        steps: as in `samplers.ddim`.
        zeta: ζ, the step size along the negative gradient of ‖y - A x̂₀‖.
    """
    A = measurement.operator
    # The rest of y, such as pixels under a mask, would count in the norm and shorten the gradient.
    y = A.in_range(jnp.asarray(measurement.y))

    def step(z: Array, now: Move, key: Key) -> Array:
        def distance(z: Array) -> tuple[Array, Array]:
            x = _denoised(eps_fn, z, now)
            return jnp.sqrt(_each(jnp.square(y - A.forward(x))) + 1e-12).sum(), x

        gradient, x = jax.grad(distance, has_aux=True)(z)
        new = now.of_x * x + now.of_z * z + now.sigma * rng.normal(key, shape)
        return new - zeta * gradient

    return _scan(step, schedule, key, shape, steps)


def pigdm(
    eps_fn: EpsFn,
    schedule: Schedule,
    key: Key,
    shape: Shape,
    measurement: Measurement,
    steps: Steps = None,
) -> Array:
    """Sample with pseudo-inverse guidance, an approximate denoiser of p(z_t|y): [B, ...].

    Args:
        eps_fn: the denoiser of p(x).
        schedule: of the forward process.
        key: of all noise.
        shape: [B, ...] of the samples.
        measurement: of x.
        steps: as in `samplers.ddim`.
    """

    def step(z: Array, now: Move, key: Key) -> Array:
        (_, x), gradient = _twist(eps_fn, measurement, z, now)
        x = x + now.b**2 / now.a * gradient
        return now.of_x * x + now.of_z * z + now.sigma * rng.normal(key, shape)

    return _scan(step, schedule, key, shape, steps)


def _twist(
    eps_fn: EpsFn, measurement: Measurement, z: Array, now: Move
) -> tuple[tuple[Array, Array], Array]:
    """Return (ln N(y; A x̂₀, r² AAᵀ + σ_y² I) [B] up to a constant, x̂₀), and its gradient in z."""

    def total(z: Array) -> tuple[Array, tuple[Array, Array]]:
        x = _denoised(eps_fn, z, now)
        log_p = _log_likelihood(measurement, x, now.b**2)
        return log_p.sum(), (log_p, x)

    (_, found), gradient = jax.value_and_grad(total, has_aux=True)(z)
    return found, gradient


def _log_likelihood(measurement: Measurement, x: Array, r2: Array | float) -> Array:
    A, y, noise = measurement
    residual = jnp.asarray(y) - A.forward(x)
    solved = A.solve(residual, r2, max(noise, MIN_NOISE) ** 2)
    return -0.5 * _each(jnp.asarray(residual * solved))


def twisted(
    eps_fn: EpsFn,
    schedule: Schedule,
    key: Key,
    shape: Shape,
    measurement: Measurement,
    steps: Steps = None,
) -> Array:
    """Return the particles of one twisted sequential Monte Carlo run: [P, ...], not independent.

    Use many particles: of few, most may be copies of one.

    Args:
        eps_fn: the denoiser of p(x).
        schedule: of the forward process.
        key: of all noise.
        shape: [P, ...], P particles.
        measurement: of x, one y for all. Its noise is taken to be at least 0.001.
        steps: as in `samplers.ddim`.
    """
    num_measurements = len(jnp.asarray(measurement.y))
    if num_measurements != 1:
        raise InputError(f"{num_measurements} measurements; all particles share one, y [1, ...]")
    plan = moves(schedule, steps)
    first, rest = (jax.tree.map(lambda f, s=s: f[s], plan) for s in (0, slice(1, None)))

    def propose(carry: tuple, now: Move, key: Key) -> tuple[Array, Array]:
        """Return z_s of the guided step, and its new log weight."""
        z, x, gradient, log_p, log_w = carry
        row_key, noise_key = _keys(key, 2)
        rows, log_w = _resampled(row_key, log_w)
        z, x, gradient, log_p = (v[rows] for v in (z, x, gradient, log_p))
        shift = now.of_x * now.b**2 / now.a * gradient
        n = rng.normal(noise_key, shape)
        z_s = now.of_x * x + now.of_z * z + shift + now.sigma * n
        # ln N(z_s; μ, σ²) - ln N(z_s; μ + shift, σ²)
        ratio = -_each(shift * n) / now.sigma - 0.5 * _each(shift**2) / now.sigma**2
        return z_s, log_w + ratio - log_p

    def step(carry: tuple, nows: tuple[Move, Move]) -> tuple[tuple, None]:
        now, after = nows
        z_s, log_w = propose(carry, now, jax.random.fold_in(key, now.t))
        (log_p, x), gradient = _twist(eps_fn, measurement, z_s, after)
        return (z_s, x, gradient, log_p, log_w + log_p), None

    z = rng.normal(jax.random.fold_in(key, 0), shape)
    (log_p, x), gradient = _twist(eps_fn, measurement, z, first)
    before = jax.tree.map(lambda f: f[:-1], plan)
    carry, _ = jax.lax.scan(step, (z, x, gradient, log_p, log_p), (before, rest))
    # The last step has no noise: it returns x̂₀, weighted by p(y|x).
    _, x, _, log_p, log_w = carry
    log_w = log_w - log_p + _log_likelihood(measurement, x, 0.0)
    return x[_systematic(jax.random.fold_in(key, schedule.num_steps + 1), log_w)]


def _resampled(key: Key, log_w: Array) -> tuple[Array, Array]:
    """Return rows and log weights; resampled if fewer than half of the particles are effective."""
    w = jax.nn.softmax(log_w)
    few = 1 / jnp.sum(w**2) < len(w) / 2
    rows = jnp.where(few, _systematic(key, log_w), jnp.arange(len(w)))
    return rows, jnp.where(few, 0.0, log_w)


def _systematic(key: Key, log_w: Array) -> Array:
    """Return rows by systematic resampling: [P]."""
    num = len(log_w)
    at = (jax.random.uniform(key) + jnp.arange(num)) / num
    rows = jnp.searchsorted(jnp.cumsum(jax.nn.softmax(log_w)), at)
    return jnp.minimum(rows, num - 1)


METHODS: dict[str, Callable[..., Array]] = {
    "replacement": replacement, "dps": dps, "pigdm": pigdm, "twisted": twisted,
}  # fmt: skip
