r"""The Dirac-GAN: the smallest game, on which training methods part.

Mescheder, Geiger & Nowozin 2018, *Which Training Methods for GANs do actually Converge?*
(1801.04406). The data are the point 0, the samples the point θ, and D(x) = ψx. Every variant is put
together from the losses, penalties, transforms and steps that all models of this family use, and is
trained by the same code. The only equilibrium is θ = ψ = 0. There the field
v(θ, ψ) = -(∂_θ loss_g, ∂_ψ loss_D) is linear, v ≈ Jw with w = (θ, ψ); with f(t) = -ln(1 + e⁻ᵗ),
so that f'(0) = ½ and f''(0) = -¼ (Wasserstein: f(t) = t),

    none of them                J = f'(0) [[0, 1], [-1, 0]]       λ = ±i f'(0)
    R1, R2                      J - diag(0, γ)                    λ = -γ/2 ± √(γ²/4 - f'(0)²)
    instance noise of σ         J + diag(0, 2a), a = f''(0)σ²     λ = a ± √(a² - f'(0)²)
    consensus                   J - γ JᵀJ                         λ = -γ f'(0)² ± i f'(0)

One step of size h multiplies w by I + hJ where both move at once, whose eigenvalues are 1 + hλ;
by (I + h e_θ e_θᵀJ)(I + h e_ψ e_ψᵀJ)ⁿ where the discriminator moves first, n times. All w near 0
converge like ρᵗ if the largest |eigenvalue| ρ is below 1. A penalty λ(|ψ| - 1)² has no derivative
at ψ = 0: (0, 0) is no equilibrium then, and where λ is large enough w comes to rest at ψ = 0 and
another θ instead. Optimistic descent (Daskalakis et al.
2018, 1711.00141), w ← w + 2hv - h v_before, remembers v: its matrix is of (w, v_before).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from gengen.gan import game as games
from gengen.gan import gan
from gengen.gan.game import Game, Losses, Penalty, Transform
from gengen.gan.regularization import consensus, dragan, instance_noise, r1, r2
from gengen.gan.simultaneous import simultaneous
from gengen.gan.wgan import wasserstein
from gengen.gan.wgan_gp import gradient_penalty
from gengen.optim import clip_weights
from gengen.steps import method as build
from gengen.steps import player, repeat, sequence
from gengen.types import Array, Key, Method, Shape, TrainState

NODES = 64  # points that instance noise is averaged over, each step
TURN = np.array([[0.0, 1.0], [-1.0, 0.0]])  # J of a game whose f'(0) is 1
VERDICTS = ("converges", "creeps in", "cycles", "rests elsewhere", "diverges")


@dataclass(frozen=True)
class Config:
    """The constants of the laboratory."""

    shape: Shape = (1,)  # of an example: a number
    h: float = 0.1  # step size of gradient descent, for both players
    gamma: float = 0.5  # γ of R1, R2 and consensus; λ of the gradient penalties
    sigma: float = 1.0  # σ of instance noise
    c: float = 1.0  # bound of |ψ| where weights are clipped
    start: tuple[float, float] = (1.0, 1.0)  # (θ, ψ)


class Point(nn.Module):
    """g: every z [B, 1] ↦ θ [B, 1]."""

    @nn.compact
    def __call__(self, z: Array, y: Array | None = None, train: bool = False) -> Array:
        return jnp.broadcast_to(self.param("theta", nn.initializers.ones, (1,)), z.shape)


class Slope(nn.Module):
    """D: x [B, 1] ↦ ψx [B]."""

    @nn.compact
    def __call__(self, x: Array, y: Array | None = None, train: bool = False) -> Array:
        return x[:, 0] * self.param("psi", nn.initializers.ones, (1,))


class Variant(NamedTuple):
    """A way to train, and what is known of it.

    Attributes:
        converges: whether it does, linearly, by the paper (Daskalakis et al. for "optimistic").
        J: of the field at the equilibrium [2, 2]; None where there is none, or no derivative.
        losses: of the players.
        penalty: on the discriminator.
        transform: of the discriminator's inputs.
        n_critic: its steps for each of the generator.
        clipped: whether |ψ| ≤ c.
        consensus: γ.
        optimistic: whether steps look back.
    """

    converges: bool
    J: np.ndarray | None
    losses: Losses = gan.LOSSES["minimax"]
    penalty: Penalty | None = None
    transform: Transform | None = None
    n_critic: int = 1
    clipped: bool = False
    consensus: float = 0.0
    optimistic: bool = False


def quantiles(key: Key, shape: Shape) -> Array:
    """As many quantiles of N(0, 1) as there are rows, mean 0 and variance 1: no noise in the noise.

    The expectation over ε becomes a sum, and the trajectory a function of its start.
    """
    x = jax.scipy.special.ndtri((jnp.arange(shape[0]) + 0.5) / shape[0])
    x = (x - x[::-1]) / 2
    return jnp.broadcast_to((x / jnp.sqrt(jnp.mean(x**2)))[:, None], shape)


def variants(cfg: Config) -> dict[str, Variant]:
    """The variants by name, in the paper's order."""
    turn, down = 0.5 * TURN, np.diag([0.0, 1.0])
    ns, w = gan.LOSSES["nonsaturating"], wasserstein()
    return {
        "GAN": Variant(False, turn),
        "NSGAN": Variant(False, turn, ns),
        "WGAN": Variant(False, TURN, w, clipped=True),
        "WGAN, n = 5": Variant(False, TURN, w, clipped=True, n_critic=5),
        "WGAN-GP": Variant(False, None, w, gradient_penalty(cfg.gamma)),
        "WGAN-GP, n = 5": Variant(False, None, w, gradient_penalty(cfg.gamma), n_critic=5),
        "DRAGAN": Variant(False, None, ns, dragan(cfg.gamma)),
        "instance noise": Variant(
            True,
            turn - cfg.sigma**2 / 2 * down,
            transform=instance_noise(cfg.sigma, noise=quantiles),
        ),
        "consensus": Variant(True, turn - cfg.gamma * turn.T @ turn, consensus=cfg.gamma),
        "R1": Variant(True, turn - cfg.gamma * down, penalty=r1(cfg.gamma)),
        "R2": Variant(True, turn - cfg.gamma * down, penalty=r2(cfg.gamma)),
        "optimistic": Variant(True, turn, optimistic=True),
    }


def batch(variant: Variant) -> dict[str, Array]:
    """Return the data: the point 0, as often as the steps need it."""
    num = variant.n_critic * (NODES if variant.transform else 1)
    return {"x": jnp.zeros((num, 1))}


def training(cfg: Config, variant: Variant, alternating: bool = True) -> Method:
    """The variant's method, by gradient descent: the discriminator first, or both at once."""
    game = Game(
        generator=Point(),
        discriminator=Slope(),
        shape=cfg.shape,
        latent_dim=1,
        losses=variant.losses,
        penalties=(variant.penalty,) if variant.penalty else (),
        transforms=(variant.transform,) if variant.transform else (),
    )
    losses = games.player_losses(game, variant.n_critic)
    if variant.consensus:
        losses = consensus(losses, variant.consensus)
    tx = optax.optimistic_gradient_descent(cfg.h) if variant.optimistic else optax.sgd(cfg.h)
    bounded = optax.chain(tx, clip_weights(cfg.c)) if variant.clipped else tx
    steps = {
        "discriminator": repeat(
            player("discriminator", losses["discriminator"], bounded), variant.n_critic
        ),
        "generator": player("generator", losses["generator"], tx),
    }
    step = sequence(*steps.values()) if alternating else simultaneous(steps)
    return build(games.init_variables(game), step)


# --- what is measured ----------------------------------------------------------------------------


def at(method: Method, variant: Variant, w: Array) -> TrainState:
    """A fresh state whose parameters are w = (θ, ψ)."""
    state = method.init(jax.random.key(0), batch(variant))
    params = {"generator": {"theta": w[:1]}, "discriminator": {"psi": w[1:]}}
    return state.replace(params=params)


def where(state: TrainState) -> Array:
    """W = (θ, ψ) [2] of a state."""
    params = state.params
    return jnp.concatenate([params["generator"]["theta"], params["discriminator"]["psi"]])


def trajectory(cfg: Config, variant: Variant, steps: int, alternating: bool = True) -> np.ndarray:
    """W at each step from `cfg.start` on: float32 [steps + 1, 2]."""
    method, data = training(cfg, variant, alternating), batch(variant)

    @jax.jit
    def run(start: TrainState) -> Array:
        def body(state: TrainState, _: None) -> tuple[TrainState, Array]:
            return method.train_step(jax.random.key(0), state, data)[0], where(state)

        state, path = jax.lax.scan(body, start, length=steps)
        return jnp.concatenate([path, where(state)[None]])

    return np.asarray(run(at(method, variant, jnp.array(cfg.start))))


def field(
    cfg: Config, variant: Variant, points: np.ndarray, alternating: bool = False
) -> np.ndarray:
    """How far one step goes from each point [N, 2], divided by h: [N, 2]."""
    method, data = training(cfg, variant, alternating), batch(variant)
    fresh = at(method, variant, jnp.zeros(2))

    @jax.jit
    @jax.vmap
    def moved(w: Array) -> Array:
        params = {"generator": {"theta": w[:1]}, "discriminator": {"psi": w[1:]}}
        return where(method.train_step(jax.random.key(0), fresh.replace(params=params), data)[0])

    start = jnp.asarray(points, jnp.float32)
    return np.asarray((moved(start) - start) / cfg.h)


def eigenvalues(cfg: Config, variant: Variant, alternating: bool) -> np.ndarray:
    """Of the Jacobian of one training step at the equilibrium, by autodiff of the step itself.

    Returns:
        complex [2], or [4] where the optimisers remember; by falling modulus.
    """
    method, data = training(cfg, variant, alternating), batch(variant)
    state = at(method, variant, jnp.zeros(2))
    state, _ = jax.jit(method.train_step)(jax.random.key(0), state, data)  # memories are there
    leaves, tree = jax.tree.flatten((state.params, state.opt_state))
    real = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]
    flat, back = ravel_pytree([leaf for leaf, r in zip(leaves, real, strict=True) if r])

    def step(flat: Array) -> Array:
        floats = iter(back(flat))
        all_leaves = [next(floats) if r else x for x, r in zip(leaves, real, strict=True)]
        params, opt_state = jax.tree.unflatten(tree, all_leaves)
        now = state.replace(params=params, opt_state=opt_state)
        after = method.train_step(jax.random.key(0), now, data)[0]
        new = jax.tree.leaves((after.params, after.opt_state))
        return ravel_pytree([leaf for leaf, r in zip(new, real, strict=True) if r])[0]

    jacobian = jax.jit(jax.jacfwd(step))(flat)
    return _by_modulus(np.linalg.eigvals(np.asarray(jacobian, np.float64)))


def theorem(cfg: Config, variant: Variant, alternating: bool) -> np.ndarray | None:
    """What the eigenvalues must be by J: as `eigenvalues`; None where there is no J."""
    if variant.J is None:
        return None
    size = 4 if variant.optimistic else 2
    moves = []
    for i in range(2):  # the generator's, then the discriminator's
        move = np.eye(size)
        if variant.optimistic:
            move[i, :2] += 2 * cfg.h * variant.J[i]
            move[i, 2 + i] = -cfg.h
            move[2 + i] = [*variant.J[i], 0, 0]
        else:
            move[i] += cfg.h * variant.J[i]
        moves.append(move)
    first = np.linalg.matrix_power(moves[1], variant.n_critic)
    if alternating:
        return _by_modulus(np.linalg.eigvals(moves[0] @ first))
    both = moves[0].copy()
    both[1::2] = first[1::2]  # ψ, and what its optimiser remembers
    return _by_modulus(np.linalg.eigvals(both))


def _by_modulus(eigenvalues: Any) -> np.ndarray:
    values = np.asarray(eigenvalues, complex)
    return values[np.lexsort((-np.imag(values), -np.abs(values).round(6)))]


def verdict(path: np.ndarray) -> str:
    """What a trajectory does, by the largest |w| in each quarter of it: one of `VERDICTS`.

    "converges": the last is under 1e-4 of the first: in some 10,000 steps by linear convergence
    alone. "rests elsewhere": w no more than 1 % off its mean in the last quarter. "diverges": the
    last more than 5 % above the first (the turns of a logistic loss get slow far out, and so does
    the way there). "creeps in": the last more than 5 % under the one before. Else it "cycles".

    Args:
        path: [steps + 1, 2], long enough for some turns in each quarter.
    """
    quarters = np.array_split(path.astype(np.float64), 4)
    first, _, third, last = (np.linalg.norm(q, axis=1).max() for q in quarters)
    spread = np.linalg.norm(quarters[-1] - quarters[-1].mean(0), axis=1).max()
    converges, creeps, cycles, rests, diverges = VERDICTS
    if last < 1e-4 * first:
        return converges
    if spread < 1e-2 * last:
        return rests
    if last > 1.05 * first:
        return diverges
    return creeps if last < 0.95 * third else cycles


def decay(path: np.ndarray) -> float:
    """By what |w| is multiplied in a step from 1e-1 on, until 1e-6 or the end, fitted to ln |w|.

    NaN where it does not come below 1e-3.
    """
    r = np.linalg.norm(path.astype(np.float64), axis=1)
    if r.min() > 1e-3:
        return float("nan")
    end = int(np.argmax(r < 1e-6)) or len(r)
    t = np.arange(int(np.argmax(r < 1e-1)), end)
    return float(np.exp(np.polyfit(t, np.log(r[t]), 1)[0]))
