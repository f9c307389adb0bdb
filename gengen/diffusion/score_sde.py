r"""Score-based models of three stochastic differential equations: VP, VE and sub-VP.

Song, Sohl-Dickstein, Kingma, Kumar, Ermon & Poole 2021, *Score-Based Generative Modeling through
Stochastic Differential Equations* (2011.13456). From data at t = 0 to noise at t = 1:

    dx = f(t) x dt + g(t) dw,    x(t) | x(0) ~ N(m(t) x(0), s(t)² I)

    VP      f = -½β, g² = β                      m = e^{-B/2}, s² = 1 - e^{-B}
    sub-VP  f = -½β, g² = β (1 - e^{-2B})        m = e^{-B/2}, s = 1 - e^{-B}
    VE      f = 0,   g² = 2 s² ln(σ_max/σ_min)   m = 1,        s = σ_min (σ_max/σ_min)^t

    β(t) = β₀ + t (β₁ - β₀),    B(t) = ∫₀ᵗ β

A network predicts the noise: ε̂ minimises E ‖ε - ε̂‖² at x(t) = m x(0) + s ε, which is denoising
score matching with weights λ = s². The score is ∇ ln p_t = -ε̂/s. Samples come from

    ode   dx/dt = f x - ½ g² ∇ ln p_t, the probability flow, whose marginals are those of the SDE
    pc    steps of the reverse SDE (predictor) and of Langevin dynamics (corrector)

and ln p from the divergence along the probability flow (`gengen.diffusion.ode`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gengen import distributions as dist
from gengen import rng
from gengen.contract import require_num
from gengen.diffusion import continuous, ode
from gengen.diffusion.condition import one_hot
from gengen.diffusion.continuous import ContinuousConfig, Field, Function, spread
from gengen.diffusion.continuous import condition_of as condition_of
from gengen.diffusion.defaults import check_choice
from gengen.diffusion.ode import Velocity
from gengen.types import Array, InputError, Key, Method, PyTree, Shape, check_shape
from gengen.xla import jit

LOG_PROB = "lower bound"  # of images, by dequantisation; of vectors it is ln p(x) itself
Score = Callable[[Array, Array], Array]  # (x [B, ...], t [B]) → ∇ ln p_t(x), like x
OfTime = Callable[[Array], Array]
SAMPLERS = ("ode", "pc")
ConfigT = TypeVar("ConfigT", bound="Config")


@dataclass(frozen=True)
class Config(ContinuousConfig):
    """Data, equation, network, training and sampling: good settings for minutes on a CPU."""

    sde: str = "vp"  # or "ve", "subvp"
    beta_start: float = 0.1  # β₀ of VP and sub-VP
    beta_end: float = 20.0  # β₁ of VP and sub-VP
    sigma_min: float = 0.01  # of VE, in the data's unit
    sigma_max: float = 50.0  # of VE, in the data's unit
    t_min: float = 1e-3  # smallest t of training, sampling and densities

    sampler: str = "ode"  # or "pc"
    sample_steps: int = 50  # network evaluations of a sample, a multiple of those in a step
    solver: str = "heun"  # of the probability flow: "euler", "midpoint", "heun" or "rk4"
    corrector_steps: int = 1  # Langevin steps before each step of the predictor
    snr: float = 0.16  # r, norm of a Langevin step's drift relative to its noise

    @classmethod
    def paper(cls) -> Self:
        """Return DDPM++ (cont., VP) on CIFAR-10 with the predictor-corrector sampler (appendix H).

        Differences: skip connections are not scaled by √½. The paper trains from t = 1e-5 and
        samples down to 1e-3; here both are 1e-5.
        """
        return cls(
            shape=(32, 32, 3), patch=1, channels=(128, 256, 256, 256), num_blocks=(4, 4, 4, 4),
            skips="block", resample="block", time_scale=False, attention=(16,), num_heads=1,
            num_groups=32, dropout=0.1, batch_size=128, learning_rate=2e-4, b2=0.999,
            warmup_steps=5000, clip_norm=1.0, ema_decay=0.9999, t_min=1e-5, sampler="pc",
            sample_steps=2000,
        )  # fmt: skip

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        super().__post_init__()
        for name, known in (("sde", SDES), ("sampler", SAMPLERS), ("solver", ode.SOLVERS)):
            check_choice(self, name, known)
        if not 0 < self.t_min < 1:
            raise InputError(f"Config.t_min = {self.t_min}; it must be in (0, 1)")
        for low, high in (("beta_start", "beta_end"), ("sigma_min", "sigma_max")):
            if not 0 < getattr(self, low) < getattr(self, high):
                raise InputError(
                    f"Config.{low} = {getattr(self, low)} and Config.{high} = "
                    f"{getattr(self, high)}; both must be positive, and the second larger"
                )
        if self.corrector_steps < 0 or not self.snr > 0:
            raise InputError(
                f"Config.corrector_steps = {self.corrector_steps} and Config.snr = {self.snr}; "
                "they must be at least 0, and positive"
            )
        if self.sample_steps < 1 or self.sample_steps % _evaluations_per_step(self):
            raise InputError(
                f"Config.sample_steps = {self.sample_steps}; a step of the sampler {self.sampler} "
                f"takes {_evaluations_per_step(self)} evaluations: take a multiple"
            )


def _evaluations_per_step(cfg: Config) -> int:
    ode_step = ode.evaluations_per_step(cfg.solver)
    return 1 + cfg.corrector_steps if cfg.sampler == "pc" else ode_step


# --- the equations -------------------------------------------------------------------------------


class SDE(NamedTuple):
    """dx = f(t) x dt + g(t) dw, and x(t) | x(0) ~ N(m(t) x(0), s(t)² I); p_1 is N(0, s(1)² I).

    Attributes:
        drift: f.
        diffusion2: g².
        mean: m.
        std: s.
        power: grids of the probability flow are even in t^(1/power).
    """

    drift: OfTime
    diffusion2: OfTime
    mean: OfTime
    std: OfTime
    power: float


def vp(beta_start: float = 0.1, beta_end: float = 20.0) -> SDE:
    """Return the variance-preserving SDE, of which DDPM is a discretisation."""
    beta, total = _betas(beta_start, beta_end)
    std = lambda t: jnp.sqrt(-jnp.expm1(-total(t)))  # noqa: E731
    return SDE(lambda t: -beta(t) / 2, beta, lambda t: jnp.exp(-total(t) / 2), std, 2.0)


def subvp(beta_start: float = 0.1, beta_end: float = 20.0) -> SDE:
    """Return the sub-VP SDE, whose variance is below that of VP at every t."""
    beta, total = _betas(beta_start, beta_end)
    g2 = lambda t: -beta(t) * jnp.expm1(-2 * total(t))  # noqa: E731
    std = lambda t: -jnp.expm1(-total(t))  # noqa: E731
    return SDE(lambda t: -beta(t) / 2, g2, lambda t: jnp.exp(-total(t) / 2), std, 2.0)


def ve(sigma_min: float = 0.01, sigma_max: float = 50.0) -> SDE:
    """Return the variance-exploding SDE; its data at t = 0 have noise of σ_min."""
    rate = float(np.log(sigma_max / sigma_min))
    std = lambda t: sigma_min * jnp.exp(rate * t)  # noqa: E731
    return SDE(jnp.zeros_like, lambda t: 2 * rate * std(t) ** 2, jnp.ones_like, std, 1.0)


def _betas(start: float, end: float) -> tuple[OfTime, OfTime]:
    """Return β(t) and its integral from 0."""
    return lambda t: start + t * (end - start), lambda t: t * (start + t * (end - start) / 2)


SDES: dict[str, Callable[[Config], SDE]] = {
    "vp": lambda cfg: vp(cfg.beta_start, cfg.beta_end),
    "subvp": lambda cfg: subvp(cfg.beta_start, cfg.beta_end),
    "ve": lambda cfg: ve(cfg.sigma_min, cfg.sigma_max),
}


def equation(cfg: Config) -> SDE:
    """Return the SDE of a Config."""
    return SDES[cfg.sde](cfg)


def probability_flow(sde: SDE, score: Score) -> Velocity:
    """Return dx/dt = f x - ½ g² ∇ ln p_t."""

    def velocity(x: Array, t: Array) -> Array:
        f, g2 = spread(sde.drift(t), x), spread(sde.diffusion2(t), x)
        return f * x - g2 / 2 * score(x, t)

    return velocity


def noise_prediction(sde: SDE, network: Function) -> Function:
    """Return ε̂(x, t) of a network of x(t)/√(m² + s²), which has variance 1 if the data have."""

    def predict(x: Array, t: Array) -> Array:
        return network(x / spread(jnp.hypot(sde.mean(t), sde.std(t)), x), t)

    return predict


def score(cfg: Config, variables: PyTree, y: Array, net: nn.Module | None = None) -> Score:
    """Return the trained ∇ ln p_t, with guidance, for one-hot classes y [B, num_classes]."""
    sde = equation(cfg)
    predict = noise_prediction(sde, continuous.output(cfg, variables, y, net))
    return lambda x, t: -predict(x, t) / spread(sde.std(t), x)


# --- sampling ------------------------------------------------------------------------------------


def flow_times(sde: SDE, steps: int, t_min: float) -> np.ndarray:
    """Return the times of the probability flow from t_min to 1: float64 [steps + 1]."""
    return np.linspace(t_min ** (1 / sde.power), 1, steps + 1) ** sde.power


def predictor_corrector(
    sde: SDE, score: Score, key: Key, shape: Shape, times: np.ndarray,
    corrector_steps: int = 1, snr: float = 0.16,
) -> Array:  # fmt: skip
    """Sample by Langevin steps at each t and a step of the reverse SDE to the next.

    With a = m(t)/m(s) and G² = s(t)² - a² s(s)² of a step from t to s, the predictor is the paper's
    reverse diffusion, x ← (2 - a) x + G² ∇ ln p_t + G n. The last step adds no noise.

    Args:
        sde: the equation.
        score: ∇ ln p_t.
        key: of the start and all noise.
        shape: [B, ...] of the samples.
        times: [steps + 1], decreasing from 1.
        corrector_steps: Langevin steps at each t.
        snr: r of the size 2a² (r ‖n‖/‖∇ ln p‖)² of a Langevin step, with norms that are means over
            the samples.
    """
    t = jnp.asarray(times, jnp.float32)
    a = sde.mean(t[:-1]) / sde.mean(t[1:])
    G2 = sde.std(t[:-1]) ** 2 - (a * sde.std(t[1:])) ** 2
    G = jnp.sqrt(G2).at[-1].set(0)
    norm = lambda x: jnp.linalg.norm(x.reshape(len(x), -1), axis=1).mean()  # noqa: E731

    def step(x: Array, now: tuple[Array, ...]) -> tuple[Array, None]:
        i, t, a, G2, G = now
        keys = jax.random.split(jax.random.fold_in(key, i), corrector_steps + 1)
        at = jnp.full(shape[0], t)
        for own in keys[1:]:
            slope, noise = score(x, at), rng.normal(own, shape)
            size = 2 * (a * snr * norm(noise) / norm(slope)) ** 2
            x = x + size * slope + jnp.sqrt(2 * size) * noise
        return (2 - a) * x + G2 * score(x, at) + G * rng.normal(keys[0], shape), None

    start = sde.std(t[0]) * rng.normal(jax.random.fold_in(key, 0), shape)
    return jax.lax.scan(step, start, (1 + jnp.arange(len(a)), t[:-1], a, G2, G))[0]


def sample(
    cfg: Config, variables: PyTree, key: Key, num: int, *,
    condition: ArrayLike | None = None, net: nn.Module | None = None,
) -> Array:  # fmt: skip
    """Sample by `cfg.sampler`: float32 [num, *shape], images in [-1, 1].

    Args:
        cfg: of the model.
        variables: of the trained model.
        key: of the noise.
        num: number of samples.
        condition: labels [num], if Config.num_classes is above 0; None: each class in turn.
        net: the network that was trained instead of the Config's.
    """
    require_num(num)
    y = continuous.classes_to_sample(cfg, condition, num)
    return _sample(cfg, variables, key, y, net)


@jit(0, 4)
def _sample(cfg: Config, variables: PyTree, key: Key, y: Array, net: nn.Module | None) -> Array:
    sde, slope, shape = equation(cfg), score(cfg, variables, y, net), (len(y), *cfg.shape)
    steps = cfg.sample_steps // _evaluations_per_step(cfg)
    if cfg.sampler == "pc":
        times = np.linspace(1, cfg.t_min, steps + 1)
        x = predictor_corrector(sde, slope, key, shape, times, cfg.corrector_steps, cfg.snr)
    else:
        start = sde.std(jnp.ones(())) * rng.normal(key, shape)
        times = flow_times(sde, steps, cfg.t_min)[::-1]
        x = ode.through(probability_flow(sde, slope), start, times, cfg.solver)
    return jnp.clip(x, -1, 1) if len(cfg.shape) == 3 else x


def evaluations(cfg: Config) -> int:
    """Return how often the network is called for a sample (with guidance, on twice the batch)."""
    return cfg.sample_steps


def with_evaluations(cfg: ConfigT, num: int) -> ConfigT:
    """Return a Config that samples the ODE in `num` network calls; by Euler's method if odd.

    Raises:
        InputError: for fewer than 1.
    """
    solver = "euler" if num % 2 else "heun"
    return dataclasses.replace(cfg, sampler="ode", solver=solver, sample_steps=num)


# --- density -------------------------------------------------------------------------------------


def log_density(
    sde: SDE, score: Score, x: Array, key: Key, times: np.ndarray, solver: str, probes: int = 1
) -> Array:
    """Return ln p_t(x) at t = times[0] for x [B, ...], p_1 being N(0, s(1)² I): [B], in nats.

    Args:
        sde: the equation.
        score: ∇ ln p_t.
        x: the points.
        key: see `ode.with_divergence`.
        times: [steps + 1], increasing to 1.
        solver: one of `ode.SOLVERS`.
        probes: see `ode.with_divergence`.
    """
    flow = probability_flow(sde, score)
    z, change = ode.with_divergence(flow, x, key, times, solver, probes)
    std = sde.std(jnp.ones(()))
    return dist.standard_normal(z / std) - x[0].size * jnp.log(std) + change


def log_prob(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None, *,
    condition: ArrayLike | None = None, net: nn.Module | None = None,
) -> Array:  # fmt: skip
    """Return ln p(x) of the probability flow, without guidance: [B], in nats.

    As in `flow_matching`: exact for vectors of few dimensions up to the error of the solver, which
    takes `sample_steps` evaluations or nearly as many; of 8-bit images it is a lower bound.

    Args:
        cfg: of the model; its solver and `sample_steps` are used, whatever the sampler.
        variables: of the trained model.
        x: [B, *shape].
        key: of the dequantisation and of the estimate; None: a fixed key.
        condition: labels [B]; None: p(x) without a class.
        net: the network that was trained instead of the Config's.
    """
    x = check_shape({"x": x}, cfg.shape)
    y = one_hot(cfg, continuous.check_condition(cfg, condition, len(x)), len(x))
    return _log_prob(cfg, variables, x, jax.random.key(0) if key is None else key, y, net)


@jit(0, 5)
def _log_prob(
    cfg: Config, variables: PyTree, x: Array, key: Key, y: Array, net: nn.Module | None
) -> Array:
    noise_key, probe_key = jax.random.split(key)
    x, volume = continuous.dequantised(x, noise_key)
    sde, plain = equation(cfg), dataclasses.replace(cfg, guidance=0.0)
    steps = max(cfg.sample_steps // ode.evaluations_per_step(cfg.solver), 1)
    times, slope = flow_times(sde, steps, cfg.t_min), score(plain, variables, y, net)
    return log_density(sde, slope, x, probe_key, times, cfg.solver) + volume


# --- training ------------------------------------------------------------------------------------


def method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: nn.Module | None = None
) -> Method:
    """Train by denoising score matching.

    Metrics: `loss`, the mean squared error of the noise, per dimension.

    Args:
        cfg: of the model.
        tx: an optimiser instead of the Config's Adam.
        net: a Flax module instead of the Config's network, called as `net(z, t, y, train)` with
            z [B, *shape] = x(t)/√(m² + s²), t float32 [B] in [t_min, 1], y one-hot
            [B, num_classes] (zeros where the class is dropped; [B, 0] without classes) and train a
            bool. It returns the noise ε̂, like z; dropout samples from the RNG "dropout".

    Example:
        >>> cfg, batch = Config(shape=(2,), hidden_dim=16), {"x": jnp.ones((8, 2))}
        >>> m = method(cfg)
        >>> state = m.init(jax.random.key(0), batch)
        >>> state, metrics = jax.jit(m.train_step)(jax.random.key(1), state, batch)
        >>> sample(cfg, state.variables, jax.random.key(2), 3).shape
        (3, 2)
    """
    sde = equation(cfg)

    def loss(predict: Function, time_key: Key, noise_key: Key, x: Array) -> Array:
        t = cfg.t_min + (1 - cfg.t_min) * rng.stratified(time_key, len(x))
        eps = rng.normal(noise_key, x.shape)
        noisy = spread(sde.mean(t), x) * x + spread(sde.std(t), x) * eps
        return jnp.mean((noise_prediction(sde, predict)(noisy, t) - eps) ** 2)

    return continuous.train(cfg, loss, tx, net or Field(cfg))
