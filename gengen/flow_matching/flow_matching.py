r"""Flow matching: a velocity field that carries noise to data, trained by regression.

Lipman, Chen, Ben-Hamu, Nickel & Le 2023, *Flow Matching for Generative Modeling* (2210.02747);
rectified flow: Liu, Gong & Liu 2023 (2209.03003); logit-normal times: Esser et al. 2024
(2403.03206); minibatch couplings by optimal transport: Tong et al. 2024 (2302.00482).

    z_t = (1-t) ε + t x,    ε ~ N(0, I),  t in [0, 1]
    min  E ‖û(z_t, t) - (x - ε)‖²

The minimum is the marginal velocity u(z, t) = E[x - ε | z_t = z], and dz/dt = u(z, t) carries
N(0, I) at t = 0 to the data at t = 1 (`gengen.diffusion.ode`).

With `coupling="optimal"` the noise of a batch is assigned to its examples so that Σ ‖x_i - ε_π(i)‖²
is least, instead of at random: every ε and every x is still used once, and paths become straighter.
With `num_classes` the velocity is conditioned on a class and sampled with guidance,
û = (1+w) û(z, t | y) - w û(z, t).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Self, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen import rng
from gengen.contract import require_num
from gengen.diffusion import continuous, ode
from gengen.diffusion.condition import one_hot
from gengen.diffusion.continuous import ContinuousConfig, Field
from gengen.diffusion.continuous import condition_of as condition_of
from gengen.diffusion.ode import Velocity
from gengen.types import Array, InputError, Key, Method, PyTree, check_shape
from gengen.xla import jit

LOG_PROB = "lower bound"  # of images, by dequantisation; of vectors it is ln p(x) itself
TIME_SAMPLING = ("uniform", "logit_normal")
COUPLINGS = ("independent", "optimal")
ConfigT = TypeVar("ConfigT", bound="Config")


@dataclass(frozen=True)
class Config(ContinuousConfig):
    """Data, network, training and sampling: good settings for minutes on a CPU."""

    time_sampling: str = "uniform"  # of t in training: "uniform" or "logit_normal"
    time_mean: float = 0.0  # of ln t/(1-t), where it is normal
    time_std: float = 1.0  # of ln t/(1-t)
    coupling: str = "independent"  # of noise and data in a batch, or "optimal" transport

    solver: str = "midpoint"  # "euler", "midpoint", "heun" or "rk4"
    sample_steps: int = 20  # network evaluations of a sample, a multiple of the solver's in a step

    @classmethod
    def paper(cls) -> Self:
        """Return the settings of Lipman et al. on CIFAR-10 (appendix E.1, table 3).

        The paper takes the U-Net of Dhariwal & Nichol 2021 and samples with the adaptive solver
        dopri5, in 142 evaluations on average; here as many of `rk4`.
        """
        return cls(
            shape=(32, 32, 3), patch=1, channels=(256, 512, 512, 512), num_blocks=(2, 2, 2, 2),
            skips="block", attention=(16,), num_heads=4, num_groups=32, dropout=0.0, batch_size=256,
            learning_rate=5e-4, b2=0.999, warmup_steps=45_000, decay_steps=391_000,
            lr_schedule="linear", decay_floor=0.0, clip_norm=1e9, ema_decay=0.9999, solver="rk4",
            sample_steps=140,
        )  # fmt: skip

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        super().__post_init__()
        if self.sample_steps < 1:
            raise InputError(f"Config.sample_steps = {self.sample_steps}; it must be at least 1")
        if not self.time_std > 0:
            raise InputError(f"Config.time_std = {self.time_std}; it must be positive")
        for name, known in (
            ("time_sampling", TIME_SAMPLING), ("coupling", COUPLINGS),
            ("solver", tuple(ode.SOLVERS)),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise InputError(
                    f"Config.{name} = {getattr(self, name)!r}; it must be one of {', '.join(known)}"
                )
        if self.sample_steps % ode.evaluations_per_step(self.solver):
            raise InputError(
                f"Config.sample_steps = {self.sample_steps}; the solver {self.solver} evaluates "
                f"{ode.evaluations_per_step(self.solver)} times a step: take a multiple"
            )


# --- the mathematics -----------------------------------------------------------------------------


def velocity(cfg: Config, variables: PyTree, y: Array, net: nn.Module | None = None) -> Velocity:
    """Return the trained network as `u(z, t)`, with guidance, for one-hot classes y."""
    return continuous.output(cfg, variables, y, net)


def times(cfg: Config, key: Key, num: int) -> Array:
    """Sample t [num] for training, stratified: one in each of `num` equally likely parts."""
    if cfg.time_sampling == "uniform":
        return rng.stratified(key, num)
    return jax.nn.sigmoid(cfg.time_mean + cfg.time_std * continuous.normal_quantiles(key, num))


def coupled(cfg: Config, eps: Array, x: Array) -> Array:
    """Return the noise of each example: `eps` as it is, or assigned by optimal transport."""
    if cfg.coupling == "independent":
        return eps
    all_eps, all_x = rng.of_all_replicas(eps), rng.of_all_replicas(x)
    a, b = (v.reshape(len(v), -1) for v in (all_x, all_eps))
    cost = -2 * a @ b.T  # ‖x‖² and ‖ε‖² add the same to every assignment
    rows, columns = optax.assignment.hungarian_algorithm(cost)
    return rng.own_rows(all_eps[columns[jnp.argsort(rows)]], len(x))


def interpolate(eps: Array, x: Array, t: Array) -> Array:
    """Return z_t = (1-t) ε + t x for t [B]."""
    t = continuous.spread(t, x)
    return (1 - t) * eps + t * x


# --- sampling and density ------------------------------------------------------------------------


def sample(
    cfg: Config, variables: PyTree, key: Key, num: int, *,
    condition: ArrayLike | None = None, net: nn.Module | None = None,
) -> Array:  # fmt: skip
    """Sample by solving the flow: float32 [num, *shape], images in [-1, 1].

    Args:
        cfg: of the model.
        variables: of the trained model.
        key: of the noise at t = 0, the only one.
        num: number of samples.
        condition: labels [num], if Config.num_classes is above 0; None: each class in turn.
        net: the network that was trained instead of the Config's.
    """
    require_num(num)
    y = continuous.classes_to_sample(cfg, condition, num)
    return _sample(cfg, variables, key, y, net)


@jit(0, 4)
def _sample(cfg: Config, variables: PyTree, key: Key, y: Array, net: nn.Module | None) -> Array:
    steps = cfg.sample_steps // ode.evaluations_per_step(cfg.solver)
    u, shape = velocity(cfg, variables, y, net), (len(y), *cfg.shape)
    x = ode.sample(u, key, shape, steps, cfg.solver)
    return jnp.clip(x, -1, 1) if len(cfg.shape) == 3 else x


def evaluations(cfg: Config) -> int:
    """Return how often the network is called for a sample (with guidance, on twice the batch)."""
    return cfg.sample_steps


def with_evaluations(cfg: ConfigT, num: int) -> ConfigT:
    """Return a Config that samples in `num` network calls; by Euler's method if `num` is odd.

    Raises:
        InputError: for fewer than 1.
    """
    return dataclasses.replace(cfg, solver="euler" if num % 2 else "midpoint", sample_steps=num)


def log_prob(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None, *,
    condition: ArrayLike | None = None, net: nn.Module | None = None,
) -> Array:  # fmt: skip
    """Return ln p(x) of the flow, without guidance: [B], in nats.

    Exact for vectors of up to `ode.EXACT_DIMS` dimensions, up to the error of the solver; estimated
    without bias beyond (`ode.log_density`). Images are taken as 8-bit and dequantised by uniform
    noise: the value is a lower bound of the logarithm of their pixels' probability.

    Args:
        cfg: of the model; its solver and `sample_steps` are used.
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
    plain = dataclasses.replace(cfg, guidance=0.0)
    steps = cfg.sample_steps // ode.evaluations_per_step(cfg.solver)
    u = velocity(plain, variables, y, net)
    return ode.log_density(u, x, probe_key, steps, cfg.solver) + volume


# --- training ------------------------------------------------------------------------------------


def method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: nn.Module | None = None
) -> Method:
    """Train by regression on x - ε.

    Metrics: `loss`, the mean squared error of the velocity, per dimension.

    Args:
        cfg: of the model.
        tx: an optimiser instead of the Config's Adam.
        net: a Flax module instead of the Config's network, called as `net(z, t, y, train)` with
            z [B, *shape], t float32 [B] in [0, 1], y one-hot [B, num_classes] (zeros where the
            class is dropped; [B, 0] without classes) and train a bool. It returns the velocity, of
            the shape of z; dropout samples from the RNG "dropout".

    Example:
        >>> cfg, batch = Config(shape=(2,), hidden_dim=16), {"x": jnp.ones((8, 2))}
        >>> m = method(cfg)
        >>> state = m.init(jax.random.key(0), batch)
        >>> state, metrics = jax.jit(m.train_step)(jax.random.key(1), state, batch)
        >>> sample(cfg, state.variables, jax.random.key(2), 3).shape
        (3, 2)
    """

    def loss(predict: Velocity, time_key: Key, noise_key: Key, x: Array) -> Array:
        eps = coupled(cfg, rng.normal(noise_key, x.shape), x)
        t = times(cfg, time_key, len(x))
        return jnp.mean((predict(interpolate(eps, x, t), t) - (x - eps)) ** 2)

    return continuous.train(cfg, loss, tx, net or Field(cfg))
