r"""Flow matching: a velocity field that carries noise to data, trained by regression.

Lipman, Chen, Ben-Hamu, Nickel & Le 2023, *Flow Matching for Generative Modeling* (2210.02747);
rectified flow: Liu, Gong & Liu 2023 (2209.03003); logit-normal times: Esser et al. 2024
(2403.03206); minibatch couplings by optimal transport: Tong et al. 2024 (2302.00482).

    z_t = (1-t) ε + t x,    ε ~ N(0, I),  t in [0, 1]
    min  E ‖û(z_t, t) - (x - ε)‖²

The minimum is the marginal velocity u(z, t) = E[x - ε | z_t = z], and dz/dt = u(z, t) carries
N(0, I) at t = 0 to the data at t = 1 (`gengen.flow_matching.ode`).

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
import numpy as np
import optax
from jax.typing import ArrayLike

from gengen import rng
from gengen.contract import (
    Task,
    check_labels,
    labels_of,
    refuse_condition,
    require_num,
)
from gengen.diffusion import samplers
from gengen.diffusion.condition import in_turn, one_hot
from gengen.diffusion.defaults import optimizer, patch_size, task_fields
from gengen.flow_matching import ode
from gengen.flow_matching.ode import Velocity
from gengen.nn.mlp import TimeMLP
from gengen.nn.unet import UNet
from gengen.optim import ScheduledConfig
from gengen.steps import descent, with_ema
from gengen.steps import method as build
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, Shape, check_shape
from gengen.xla import jit

LOG_PROB = "lower bound"  # of images, by dequantisation; of vectors it is ln p(x) itself
TIME_SAMPLING = ("uniform", "logit_normal")
COUPLINGS = ("independent", "optimal")
TIME_UNIT = 1000.0  # the network's t runs to it: its sines and cosines are made for such numbers
LEVELS = 256  # of a pixel
ConfigT = TypeVar("ConfigT", bound="Config")


@dataclass(frozen=True)
class Config(ScheduledConfig):
    """Data, network, training and sampling: good settings for minutes on a CPU."""

    shape: Shape = (28, 28, 1)  # of one example: (H, W, C) in [-1, 1], or (D,)
    num_classes: int = 0  # of the data's "label"; 0: not conditioned on a class
    condition_dropout: float = 0.1  # probability of dropping the class in training; 0: no guidance
    guidance: float = 0.0  # w; without effect where there are no classes

    time_sampling: str = "uniform"  # of t in training: "uniform" or "logit_normal"
    time_mean: float = 0.0  # of ln t/(1-t), where it is normal
    time_std: float = 1.0  # of ln t/(1-t)
    coupling: str = "independent"  # of noise and data in a batch, or "optimal" transport

    patch: int = 0  # side of the patches folded into channels, in pixels; 0: see `patch_size`
    channels: tuple[int, ...] = (64, 128)  # of each level of the U-Net
    num_blocks: tuple[int, ...] = (1, 2)  # residual blocks of each level
    skips: str = "level"  # or "block", see `ddpm.Config`
    attention: tuple[int, ...] = ()  # resolutions with self-attention, in pixels
    num_heads: int = 4  # of attention
    num_groups: int = 8  # of group normalisation
    dropout: float = 0.0  # rate
    hidden_dim: int = 128  # units of the MLP's layers, for vectors

    batch_size: int = 64  # examples per step
    learning_rate: float = 2e-3  # of Adam
    b2: float = 0.99  # of Adam: decay of the squared gradient's average, per step
    warmup_steps: int = 50  # of the learning rate, linear from 0
    clip_norm: float = 1.0  # of the gradient, over all parameters
    ema_decay: float = 0.995  # of the parameters' average, per step; warmed up

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

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data, number of train steps and device."""
        return dataclasses.replace(cls(), **task_fields(task))

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        for name in ("batch_size", "hidden_dim", "sample_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be at least 1")
        if len(self.shape) not in (1, 3) or min(self.shape, default=0) < 1:
            raise InputError(f"Config.shape = {self.shape}; it must be (H, W, C) or (D,)")
        if not self.channels or len(self.num_blocks) != len(self.channels):
            raise InputError(
                f"Config.num_blocks = {self.num_blocks} and Config.channels = {self.channels}; "
                "both must have one number per level"
            )
        for name in ("num_classes", "patch"):
            if getattr(self, name) < 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be at least 0")
        for name in ("dropout", "condition_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be in [0, 1)")
        if self.guidance and self.num_classes and not self.condition_dropout:
            raise InputError(
                f"Config.guidance = {self.guidance} needs a network that is trained without "
                "classes too: set condition_dropout above 0, or guidance = 0"
            )
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


class Field(nn.Module):
    """(z [B, *shape], t [B] in [0, 1], y [B, num_classes], train) → the velocity û, like z."""

    cfg: Config

    @nn.compact
    def __call__(self, z: Array, t: Array, y: Array, train: bool = False) -> Array:
        cfg, label = self.cfg, y if self.cfg.num_classes else None
        if len(cfg.shape) == 1:
            net: nn.Module = TimeMLP(cfg.shape[0], cfg.hidden_dim)
        else:
            net = UNet(
                cfg.shape[-1], cfg.channels, cfg.num_blocks, cfg.attention, cfg.num_heads,
                cfg.num_groups, cfg.dropout, cfg.patch or patch_size(cfg.shape), skips=cfg.skips,
            )  # fmt: skip
        return net(z, TIME_UNIT * t, train, label)


# --- the mathematics -----------------------------------------------------------------------------


def velocity(cfg: Config, variables: PyTree, y: Array, net: nn.Module | None = None) -> Velocity:
    """Return the trained network as `u(z, t)`, with guidance, for one-hot classes y."""
    used = net or Field(cfg)

    def given(y: Array) -> Velocity:
        return lambda z, t: jnp.asarray(used.apply(variables, z, t, y, False))

    if not (cfg.guidance and cfg.num_classes):
        return given(y)
    return samplers.guided(given(jnp.concatenate([y, jnp.zeros_like(y)])), cfg.guidance)


def times(cfg: Config, key: Key, num: int) -> Array:
    """Sample t [num] for training, stratified: one in each of `num` equally likely parts."""
    u = rng.stratified(key, num)
    if cfg.time_sampling == "uniform":
        return u
    normal = jax.scipy.special.ndtri(jnp.clip(u, 1e-6, 1 - 1e-6))
    return jax.nn.sigmoid(cfg.time_mean + cfg.time_std * normal)


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
    t = t.reshape(-1, *(1,) * (x.ndim - 1))
    return (1 - t) * eps + t * x


# --- sampling and density ------------------------------------------------------------------------


def condition_of(cfg: Config, batch: Batch) -> Array | None:
    """Return the labels [B] of a batch if `cfg.num_classes` is above 0."""
    return labels_of(cfg, batch)


def _check(cfg: Config, condition: ArrayLike | None, num: int) -> Array | None:
    """Return a condition as labels [num], or None."""
    if not cfg.num_classes:
        refuse_condition(condition)
    return None if condition is None else check_labels(condition, num, cfg.num_classes)


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
    labels = in_turn(cfg, _check(cfg, condition, num), num)
    return _sample(cfg, variables, key, one_hot(cfg, labels, num), net)


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
    y = one_hot(cfg, _check(cfg, condition, len(x)), len(x))
    return _log_prob(cfg, variables, x, jax.random.key(0) if key is None else key, y, net)


@jit(0, 5)
def _log_prob(
    cfg: Config, variables: PyTree, x: Array, key: Key, y: Array, net: nn.Module | None
) -> Array:
    noise_key, probe_key = jax.random.split(key)
    volume = 0.0
    if len(cfg.shape) == 3:
        level = jnp.round((x + 1) * ((LEVELS - 1) / 2))
        x = (level + rng.uniform(noise_key, x.shape)) * (2 / LEVELS) - 1
        volume = float(np.prod(cfg.shape) * np.log(2 / LEVELS))
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
    used = net or Field(cfg)

    def init_variables(key: Key, batch: Batch) -> PyTree:
        x = check_shape(batch, cfg.shape)[:1]
        return used.init(key, x, jnp.ones(1), jnp.zeros((1, cfg.num_classes)), False)

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x, labels = check_shape(batch, cfg.shape), labels_of(cfg, batch)
        time_key, noise_key, drop_key, dropout_key = jax.random.split(key, 4)
        y = one_hot(cfg, labels, len(x))
        if cfg.num_classes:
            y = jnp.where(rng.uniform(drop_key, (len(x), 1)) < cfg.condition_dropout, 0, y)
        eps = coupled(cfg, rng.normal(noise_key, x.shape), x)
        t = times(cfg, time_key, len(x))
        variables = {"params": params, **mutables}
        u = used.apply(variables, interpolate(eps, x, t), t, y, True, rngs={"dropout": dropout_key})
        return jnp.mean((jnp.asarray(u) - (x - eps)) ** 2), ({}, mutables)

    return build(init_variables, with_ema(descent(loss, tx or optimizer(cfg)), cfg.ema_decay))
