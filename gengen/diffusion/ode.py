r"""Solvers of dz/dt = u(z, t), each in one `lax.scan`, and the density along the flow.

A velocity is any function `u(z, t)` of z [B, ...] and t [B] float32: a trained network, or the
exact velocity of a known distribution (`gengen.flow_matching.exact`). `sample`, `transport` and
`log_density` go from noise at t = 0 to data at t = 1; `solve` and `with_divergence` through any
times.

    euler      z + h u(z, t)                                    1 evaluation a step, error ~ h
    midpoint   z + h u(z + h/2 u(z, t), t + h/2)                2, ~ h²
    heun       z + h/2 (u(z, t) + u(z + h u(z, t), t + h))      2, ~ h²
    rk4        the classical method of Runge and Kutta          4, ~ h⁴

The density of what comes out follows from the instantaneous change of variables (Chen et al. 2018,
1806.07366, eq. 3):

    ln p(z_1) = ln N(z_0; 0, I) - ∫₀¹ div u(z_t, t) dt
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gengen import distributions as dist
from gengen import rng
from gengen.types import Array, InputError, Key, PyTree, Shape

Velocity = Callable[[Array, Array], Array]
EXACT_DIMS = 16  # up to which the trace of the Jacobian is summed, not estimated


class Tableau(NamedTuple):
    """An explicit Runge–Kutta method whose stages use the one before alone.

    Attributes:
        nodes: of each stage, as a part of the step; also the weight of the stage before.
        weights: of the stages in the step.
    """

    nodes: tuple[float, ...]
    weights: tuple[float, ...]


SOLVERS = {
    "euler": Tableau((0.0,), (1.0,)),
    "midpoint": Tableau((0.0, 0.5), (0.0, 1.0)),
    "heun": Tableau((0.0, 1.0), (0.5, 0.5)),
    "rk4": Tableau((0.0, 0.5, 0.5, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}


def evaluations_per_step(solver: str) -> int:
    """Return how often a solver evaluates the velocity in a step."""
    return len(SOLVERS[solver].nodes)


def solve(
    derivative: Callable[[PyTree, Array], PyTree], start: PyTree, times: np.ndarray, solver: str
) -> PyTree:
    """Solve an ordinary differential equation through the given times.

    Args:
        derivative: (state, t []) → its derivative in t, like the state.
        start: the state at times[0], a pytree of arrays.
        times: [steps + 1], increasing or decreasing.
        solver: one of `SOLVERS`.

    Returns:
        The state at times[-1].
    """
    nodes, weights = SOLVERS[solver]

    def add(state: PyTree, slope: PyTree, h: Array | float) -> PyTree:
        return jax.tree.map(lambda z, s: (z + h * s).astype(z.dtype), state, slope)

    def step(state: PyTree, now: tuple[Array, Array]) -> tuple[PyTree, None]:
        t, h = now
        total, slope = state, None
        for node, weight in zip(nodes, weights, strict=True):
            inner = state if slope is None else add(state, slope, node * h)
            slope = derivative(inner, t + node * h)
            total = add(total, slope, weight * h) if weight else total
        return total, None

    spans = jnp.asarray(times[:-1], jnp.float32), jnp.asarray(np.diff(times), jnp.float32)
    return jax.lax.scan(step, start, spans)[0]


def sample(velocity: Velocity, key: Key, shape: Shape, steps: int, solver: str) -> Array:
    """Sample by carrying noise from t = 0 to t = 1 in equal steps: float32 of `shape`."""
    return transport(velocity, rng.normal(key, shape), steps, solver)


def transport(velocity: Velocity, z: Array, steps: int, solver: str, back: bool = False) -> Array:
    """Return where z [B, ...] at t = 0 is at t = 1; or, with `back`, where it came from."""
    times = _times(steps)
    return through(velocity, z, times[::-1] if back else times, solver)


def through(velocity: Velocity, z: Array, times: np.ndarray, solver: str) -> Array:
    """Return where z [B, ...] at times[0] is at times[-1]."""
    return solve(lambda z, t: velocity(z, jnp.full(len(z), t)), z, times, solver)


def log_density(
    velocity: Velocity, x: Array, key: Key, steps: int, solver: str, probes: int = 1
) -> Array:
    """Return ln p(x) for x [B, ...] at t = 1, where p is N(0, I) at t = 0: [B], in nats.

    Args:
        velocity: of the flow.
        x: the points.
        key: see `with_divergence`.
        steps: of the solver.
        solver: one of `SOLVERS`.
        probes: see `with_divergence`.
    """
    z, change = with_divergence(velocity, x, key, _times(steps)[::-1], solver, probes)
    return dist.standard_normal(z) + change


def with_divergence(
    velocity: Velocity, x: Array, key: Key, times: np.ndarray, solver: str, probes: int = 1
) -> tuple[Array, Array]:
    """Return where x [B, ...] at times[0] is at times[-1], and ∫ div u dt along the way: [B].

    The integral runs from times[0] to times[-1], up to the error of the solver. The divergence is
    exact for up to `EXACT_DIMS` dimensions. Beyond, it is estimated without bias (Hutchinson;
    Grathwohl et al. 2019, 1810.01367), with the same random signs at all times.

    Args:
        velocity: of the flow.
        x: the points.
        key: of the signs.
        times: [steps + 1], increasing or decreasing.
        solver: one of `SOLVERS`.
        probes: vectors of signs that an estimate is the mean of.
    """
    dims = x[0].size
    if dims <= EXACT_DIMS:
        vectors = jnp.eye(dims).reshape(dims, 1, *x.shape[1:]) * jnp.ones_like(x)
        share = 1.0
    else:
        signs = rng.uniform(key, (len(x), probes, *x.shape[1:])) < 0.5
        vectors, share = jnp.moveaxis(jnp.where(signs, 1.0, -1.0), 1, 0), 1 / probes

    def slopes(state: tuple[Array, Array], t: Array) -> tuple[Array, Array]:
        def along(z: Array) -> Array:
            return velocity(z, jnp.full(len(z), t))

        u, pull = jax.vjp(along, state[0])  # some layers have no forward mode
        inner = jax.lax.map(lambda v: dist.total(v * pull(v)[0]), vectors)
        return u, share * inner.sum(0)

    return solve(slopes, (x, jnp.zeros(len(x))), times, solver)


def _times(steps: int) -> np.ndarray:
    if steps < 1:
        raise InputError(f"steps = {steps}; there must be at least 1")
    return np.linspace(0.0, 1.0, steps + 1)
