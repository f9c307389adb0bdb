r"""Inverse problems: y = Ax + σ_y n is seen, an unconditional model is p(x), and p(x|y) is asked.

ε' = ε̂ - √(1-ᾱ_t) ∇_z ln p(y|z_t) would be the denoiser of p(z_t|y); what differs is what is taken
for p(y|z_t), which nobody knows. x̂₀(z_t) = E[x|z_t] is Tweedie's, by the denoiser.

    replacement   what is seen of z_s is replaced by q(z_s|y) after each step, each step is repeated
                  `repeats` times: RePaint, Lugmayr et al. 2022 (2201.09865), for any A
    dps           z_s - ζ ∇_z ‖y - A x̂₀‖: Chung et al. 2023 (2209.14687)
    pigdm         p(y|z_t) ≈ N(A x̂₀, r_t² AAᵀ + σ_y² I), r_t² = 1-ᾱ_t: Song et al. 2023, *Pseudo-
                  inverse-Guided Diffusion Models* (ICLR); exact if p(x) = N(0, I)
    twisted       that guess, but as a proposal: particles are weighted by what it gets wrong, and
                  resampled. Wu et al. 2023 (2306.17775). As particles grow in number the samples
                  become those of p(x|y), whatever the guess

The first three are biased, and docs/DIFFUSION.md says how much where p(x|y) is known. All are one
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

SURE = 1e-3  # the least σ_y that divides: a y without noise is still that uncertain


class Seen(NamedTuple):
    """What is known of x: y = Ax + σ_y n.

    Attributes:
        operator: A.
        y: one observation [1, ...] for all samples, or one for each [B, ...].
        noise: σ_y.
    """

    operator: Operator
    y: ArrayLike
    noise: float = 0.0


class Move(NamedTuple):
    """From t to s < t: numbers, float32, from z_t = a x + b ε to z_s = a_s x + b_s ε."""

    t: Array
    a: Array
    b: Array
    a_s: Array
    b_s: Array
    of_x: Array  # E[z_s | z_t, x] = of_x x + of_z z_t
    of_z: Array
    sigma: Array  # its standard deviation: √β̃
    keep: Array  # z_t = keep z_s + forget n, forwards
    forget: Array


def moves(schedule: Schedule, steps: Steps) -> Move:
    """Those from T to the end, one behind the other: fields [steps]."""
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


def _guess(eps_fn: EpsFn, z: Array, now: Move) -> Array:
    """x̂₀(z_t)."""
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
    """Sums over all axes but the first: [B]."""
    return total.reshape(len(total), -1).sum(1)


# --- the methods ---------------------------------------------------------------------------------


def replacement(
    eps_fn: EpsFn, schedule: Schedule, key: Key, shape: Shape, seen: Seen, steps: Steps = None,
    repeats: int = 5,
) -> Array:  # fmt: skip
    """Samples [B, ...] of which what is seen has been put in the place of what was drawn.

    Args:
        eps_fn: the denoiser of p(x).
        schedule: of the forward process.
        key: of all noise.
        shape: [B, ...] of the samples.
        seen: of x; its noise is not used.
        steps: as in `samplers.ddim`.
        repeats: of every step, going back in between, so that both parts come to agree: 1 and more.
    """
    if repeats < 1:
        raise InputError(f"repeats = {repeats}, but a step is made at least once")
    A, y, _ = seen

    def step(z: Array, now: Move, key: Key) -> Array:
        def once(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            z, _ = carry
            own, theirs, back = (rng.normal(k, shape) for k in _keys(jax.random.fold_in(key, i), 3))
            x = _guess(eps_fn, z, now)
            z_s = now.of_x * x + now.of_z * z + now.sigma * own
            z_s = A.project(z_s, now.a_s * jnp.asarray(y) + now.b_s * A.forward(theirs))
            return now.keep * z_s + now.forget * back, z_s

        return jax.lax.fori_loop(0, repeats, once, (z, z))[1]

    return _scan(step, schedule, key, shape, steps)


def _keys(key: Key, num: int) -> Key:
    return jax.random.split(key, num)


def dps(
    eps_fn: EpsFn, schedule: Schedule, key: Key, shape: Shape, seen: Seen, steps: Steps = None,
    zeta: float = 1.0,
) -> Array:  # fmt: skip
    """Samples [B, ...] pulled by the gradient of the distance from y, whatever σ_y is.

    Args:
        eps_fn: the denoiser of p(x).
        schedule: of the forward process.
        key: of all noise.
        shape: [B, ...] of the samples.
        seen: of x; its noise is not used.
        steps: as in `samplers.ddim`.
        zeta: ζ, the step against the gradient of ‖y - A x̂₀‖.
    """
    A, y, _ = seen

    def step(z: Array, now: Move, key: Key) -> Array:
        def distance(z: Array) -> tuple[Array, Array]:
            x = _guess(eps_fn, z, now)
            return jnp.sqrt(_each(jnp.square(y - A.forward(x))) + 1e-12).sum(), x

        pull, x = jax.grad(distance, has_aux=True)(z)
        drawn = now.of_x * x + now.of_z * z + now.sigma * rng.normal(key, shape)
        return drawn - zeta * pull

    return _scan(step, schedule, key, shape, steps)


def pigdm(
    eps_fn: EpsFn, schedule: Schedule, key: Key, shape: Shape, seen: Seen, steps: Steps = None
) -> Array:
    """Samples [B, ...] by the denoiser of p(z_t|y) that pseudo-inverse guidance guesses.

    Args:
        eps_fn: the denoiser of p(x).
        schedule: of the forward process.
        key: of all noise.
        shape: [B, ...] of the samples.
        seen: of x.
        steps: as in `samplers.ddim`.
    """

    def step(z: Array, now: Move, key: Key) -> Array:
        (_, x), pull = _twist(eps_fn, seen, z, now)
        x = x + now.b**2 / now.a * pull
        return now.of_x * x + now.of_z * z + now.sigma * rng.normal(key, shape)

    return _scan(step, schedule, key, shape, steps)


def _twist(eps_fn: EpsFn, seen: Seen, z: Array, now: Move) -> tuple[tuple[Array, Array], Array]:
    """(ln N(y; A x̂₀, r² AAᵀ + σ_y² I) [B] but for a constant, x̂₀ [B, ...]), and ∇_z of it."""

    def total(z: Array) -> tuple[Array, tuple[Array, Array]]:
        x = _guess(eps_fn, z, now)
        log_p = _log_likelihood(seen, x, now.b**2)
        return log_p.sum(), (log_p, x)

    (_, found), pull = jax.value_and_grad(total, has_aux=True)(z)
    return found, pull


def _log_likelihood(seen: Seen, x: Array, r2: Array | float) -> Array:
    away = jnp.asarray(seen.y) - seen.operator.forward(x)
    solved = seen.operator.solve(away, r2, max(seen.noise, SURE) ** 2)
    return -0.5 * _each(jnp.asarray(away * solved))


def twisted(
    eps_fn: EpsFn, schedule: Schedule, key: Key, shape: Shape, seen: Seen, steps: Steps = None
) -> Array:
    """The particles of one twisted sequential Monte Carlo run: samples [P, ...], not independent.

    What the particles agree on comes of their number: with few of them, all may be alike.

    Args:
        eps_fn: the denoiser of p(x).
        schedule: of the forward process.
        key: of all noise.
        shape: [P, ...], P particles.
        seen: of x, one y for all. Its noise is taken to be at least 0.001.
        steps: as in `samplers.ddim`.
    """
    if len(jnp.asarray(seen.y)) != 1:
        raise InputError(f"{len(jnp.asarray(seen.y))} observations, but all particles have one")
    plan = moves(schedule, steps)
    first, rest = (jax.tree.map(lambda f, s=s: f[s], plan) for s in (0, slice(1, None)))

    def propose(carry: tuple, now: Move, key: Key) -> tuple[Array, Array]:
        """z_s by the guided step, and ln of what the plain one gives it over the guided one."""
        z, x, pull, log_p, log_w = carry
        chosen_key, noise_key = _keys(key, 2)
        rows, log_w = _resampled(chosen_key, log_w)
        z, x, pull, log_p = (v[rows] for v in (z, x, pull, log_p))
        shift = now.of_x * now.b**2 / now.a * pull
        n = rng.normal(noise_key, shape)
        z_s = now.of_x * x + now.of_z * z + shift + now.sigma * n
        # ln N(z_s; μ, σ²) - ln N(z_s; μ + shift, σ²)
        ratio = -_each(shift * n) / now.sigma - 0.5 * _each(shift**2) / now.sigma**2
        return z_s, log_w + ratio - log_p

    def step(carry: tuple, nows: tuple[Move, Move]) -> tuple[tuple, None]:
        now, after = nows
        z_s, log_w = propose(carry, now, jax.random.fold_in(key, now.t))
        (log_p, x), pull = _twist(eps_fn, seen, z_s, after)
        return (z_s, x, pull, log_p, log_w + log_p), None

    z = rng.normal(jax.random.fold_in(key, 0), shape)
    (log_p, x), pull = _twist(eps_fn, seen, z, first)
    before = jax.tree.map(lambda f: f[:-1], plan)
    carry, _ = jax.lax.scan(step, (z, x, pull, log_p, log_p), (before, rest))
    # The last step has no noise: x̂₀ itself, weighted by p(y|x).
    _, x, _, log_p, log_w = carry
    log_w = log_w - log_p + _log_likelihood(seen, x, 0.0)
    return x[_systematic(jax.random.fold_in(key, schedule.num_steps + 1), log_w)]


def _resampled(key: Key, log_w: Array) -> tuple[Array, Array]:
    """Rows to go on with, and their weights: new ones where fewer than half are effective."""
    w = jax.nn.softmax(log_w)
    few = 1 / jnp.sum(w**2) < len(w) / 2
    rows = jnp.where(few, _systematic(key, log_w), jnp.arange(len(w)))
    return rows, jnp.where(few, 0.0, log_w)


def _systematic(key: Key, log_w: Array) -> Array:
    """Rows drawn in proportion to their weights, as evenly as can be: [P]."""
    num = len(log_w)
    at = (jax.random.uniform(key) + jnp.arange(num)) / num
    rows = jnp.searchsorted(jnp.cumsum(jax.nn.softmax(log_w)), at)
    return jnp.minimum(rows, num - 1)


METHODS: dict[str, Callable[..., Array]] = {
    "replacement": replacement, "dps": dps, "pigdm": pigdm, "twisted": twisted,
}  # fmt: skip
