r"""DDPM: denoising diffusion probabilistic models.

Ho, Jain & Abbeel 2020, *Denoising Diffusion Probabilistic Models* (2006.11239); cosine schedule:
Nichol & Dhariwal 2021 (2102.09672); v-prediction: Salimans & Ho 2022 (2202.00512).

Forward process, from data to noise, for t = 1..T:

    q(z_t | x) = N(√ᾱ_t x, (1-ᾱ_t) I),    ᾱ_t = Π_{k≤t} (1-β_k)

Reverse process, from noise to data, with a network's prediction ε̂(z_t, t) of the noise:

    p(z_{t-1} | z_t) = N(μ, σ_t² I),    μ = (z_t - β_t ε̂/√(1-ᾱ_t)) / √(1-β_t)

Training minimises E ‖ε - ε̂(√ᾱ_t x + √(1-ᾱ_t) ε, t)‖², the paper's L_simple. It is the negative
evidence lower bound (`gengen.diffusion.elbo`) without its weights β_t²/(2σ_t²(1-β_t)(1-ᾱ_t)). A σ_t
that makes every weight ½ (`variance="unit"`) gives that loss, but it is wrong to sample with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Self, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gengen import rng
from gengen.contract import Task, refuse_condition, require_num
from gengen.contract import unconditional as condition_of
from gengen.diffusion import inverse, samplers
from gengen.diffusion.defaults import (
    check_choice,
    check_network,
    optimizer,
    patch_size,
    task_fields,
)
from gengen.diffusion.elbo import elbo, elbo_terms
from gengen.diffusion.prediction import as_eps, noise_schedule, target
from gengen.diffusion.samplers import EpsFn
from gengen.diffusion.schedule import (
    Schedule,
    cosine_schedule,
    from_betas,
    linear_schedule,
    q_sample,
    reverse_variances,
)
from gengen.nn.mlp import TimeMLP
from gengen.nn.unet import UNet
from gengen.optim import ScheduledConfig
from gengen.steps import descent, with_ema
from gengen.steps import method as build
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, Shape, check_shape
from gengen.xla import jit

__all__ = [
    "Config", "Schedule", "as_eps", "bits_per_dim", "condition_of", "cosine_schedule", "denoiser",
    "elbo_terms", "evaluations", "from_betas", "linear_schedule", "log_prob", "method",
    "noise_schedule", "posterior", "q_sample", "sample", "sample_from", "with_evaluations",
]  # fmt: skip

LOG_PROB = "lower bound"
SAMPLERS: dict[str, Callable[[Config], Callable[..., Array]]] = {
    "ancestral": lambda cfg: partial(samplers.ancestral, variance=cfg.variance),
    "ddim": lambda cfg: partial(samplers.ddim, steps=evaluations(cfg), eta=cfg.eta),
    "multistep": lambda cfg: partial(samplers.multistep, steps=evaluations(cfg)),
}
MAX_SIGNAL = 0.01  # upper bound of ᾱ_T: sampling starts from N(0, I), without any signal
ConfigT = TypeVar("ConfigT", bound="Config")


@dataclass(frozen=True)
class Config(ScheduledConfig):
    """Data, diffusion, network, training and sampling: good settings for minutes on a CPU."""

    shape: Shape = (28, 28, 1)  # of one example: (H, W, C) in [-1, 1], or (D,)

    T: int = 1000  # number of diffusion steps
    schedule: str = "cosine"  # or "linear"
    beta_start: float = 0.1  # of the linear schedule, divided by T
    beta_end: float = 20.0  # of the linear schedule, divided by T
    prediction: str = "v"  # what the network predicts: "eps", "x0" or "v"
    variance: str = "beta"  # σ_t² of the reverse step: "beta", "posterior" or "unit"

    patch: int = 0  # side of the patches folded into channels, in pixels; 0: see `patch_size`
    channels: tuple[int, ...] = (64, 128)  # of each level of the U-Net
    num_blocks: tuple[int, ...] = (1, 2)  # residual blocks of each level
    attention: tuple[int, ...] = ()  # resolutions with self-attention, in pixels
    num_heads: int = 4  # of attention
    num_groups: int = 8  # of group normalisation
    dropout: float = 0.0  # rate
    remat: bool = False  # recompute activations for the gradient instead of storing them
    # Skip connections after every "block", as in the paper, or one for each "level", the default on
    # CPUs: at its widths "block" needs 3.3 times the operations (28×28: 21.8 G a step, not 6.7).
    skips: str = "level"
    head_dim: int = 0  # channels of each head of attention, instead of num_heads; 0: not used
    time_scale: bool = True  # whether t scales and shifts features, or is added to them
    resample: str = "convolution"  # or by a residual "block", with skips = "block"
    hidden_dim: int = 128  # units of the MLP's layers, for vectors

    batch_size: int = 64  # examples per step
    learning_rate: float = 2e-3  # of Adam
    b2: float = 0.99  # of Adam: decay of the squared gradient's average, per step
    warmup_steps: int = 50  # of the learning rate, linear from 0
    clip_norm: float = 1.0  # of the gradient, over all parameters
    ema_decay: float = 0.995  # of the parameters' average, per step; warmed up
    times_per_example: int = 1  # number of t for each example of a batch

    sampler: str = "ddim"  # "ancestral", "ddim" or "multistep"
    sample_steps: int | None = 50  # network evaluations, at most T; None: T (ancestral: always T)
    eta: float = 1.0  # noise of DDIM, as a fraction of the ancestral sampler's
    clip_denoised: bool = True  # clip x̂₀ to [-1, 1] while sampling images

    RENAMED: ClassVar[dict[str, str | None]] = {
        "blocks": "num_blocks", "heads": "num_heads", "groups": "num_groups",
        "width": "hidden_dim", "clip": "clip_denoised",
    }  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """Return the network and training on CIFAR-10: §4 and appendix B, 35.7M parameters."""
        return cls(
            shape=(32, 32, 3), T=1000, schedule="linear", beta_start=0.1, beta_end=20.0,
            prediction="eps", variance="beta", patch=1, channels=(128, 256, 256, 256),
            num_blocks=(2, 2, 2, 2), attention=(16,), num_heads=1, num_groups=32, dropout=0.1,
            skips="block", time_scale=False,
            batch_size=128, learning_rate=2e-4, b2=0.999, warmup_steps=5000, decay_steps=0,
            clip_norm=1.0, ema_decay=0.9999, sampler="ancestral", sample_steps=None, eta=0.0,
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
        check_network(self)
        for name in ("T", "times_per_example"):
            if getattr(self, name) < 1:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be at least 1")
        for name, known in (("prediction", ("eps", "x0", "v")), ("sampler", tuple(SAMPLERS))):
            check_choice(self, name, known)
        if self.sample_steps is not None and self.sample_steps < 1:
            raise InputError(f"Config.sample_steps = {self.sample_steps}; it must be at least 1")
        if 0 < self.decay_steps <= self.warmup_steps:
            raise InputError(
                f"Config.decay_steps = {self.decay_steps}; it must be larger than warmup_steps = "
                f"{self.warmup_steps}, or 0 for no decay"
            )
        if not 0 <= self.decay_floor < 1:
            raise InputError(f"Config.decay_floor = {self.decay_floor}; it must be in [0, 1)")
        left = noise_schedule(self).alpha_bars[-1]
        if left > MAX_SIGNAL:
            raise InputError(
                f"the {self.schedule} schedule ends at ᾱ_T = {left:.3g}, but sampling starts from "
                f"pure noise: ᾱ_T must be at most {MAX_SIGNAL}; use a larger beta_end"
            )
        reverse_variances(noise_schedule(self), self.variance)


def network(cfg: Config) -> nn.Module:
    """Return the network, (z, t, train, y) → prediction: a U-Net, or an MLP for vectors."""
    if len(cfg.shape) == 1:
        return TimeMLP(cfg.shape[0], cfg.hidden_dim)
    return UNet(
        cfg.shape[-1], cfg.channels, cfg.num_blocks, cfg.attention, cfg.num_heads, cfg.num_groups,
        cfg.dropout, cfg.patch or patch_size(cfg.shape), cfg.remat, cfg.skips, cfg.head_dim,
        cfg.time_scale, cfg.resample,
    )  # fmt: skip


# --- the mathematics -----------------------------------------------------------------------------


def denoiser(cfg: Config, variables: PyTree, net: nn.Module | None = None) -> EpsFn:
    """Return the trained network as `eps_fn(z, t) -> ε̂`, whatever it predicts."""
    used = net or network(cfg)
    return as_eps(cfg, lambda z, t: jnp.asarray(used.apply(variables, z, t, False)))


def simple_loss(
    cfg: Config, predict: Callable[[Array, Array, Key], Array], key: Key, x: Array
) -> Array:
    """Return L_simple, the mean squared error of the prediction, per dimension: [].

    The t of a batch are stratified, one in each of B equal parts of 1..T: each is uniform, and the
    gradient has less noise than with independent ones.

    Args:
        cfg: of the model.
        predict: (z, t, key of dropout) → the prediction.
        key: of times, noise and dropout.
        x: [B, *shape]; each is used `cfg.times_per_example` times, one after the other.
    """
    x = jnp.repeat(x, cfg.times_per_example, axis=0)
    time_key, noise_key, dropout_key = jax.random.split(key, 3)
    t = 1 + jnp.floor(cfg.T * rng.stratified(time_key, len(x), cfg.times_per_example))
    t = jnp.clip(t, 1, cfg.T).astype(jnp.int32)  # by rounding, u < 1 may still give T · u = T
    eps = rng.normal(noise_key, x.shape)
    z = q_sample(noise_schedule(cfg), x, t, eps)
    return jnp.mean((predict(z, t, dropout_key) - target(cfg, x, t, eps)) ** 2)


# --- sampling and density ------------------------------------------------------------------------


def sample(
    cfg: Config, variables: PyTree, key: Key, num: int, *,
    condition: PyTree = None, net: nn.Module | None = None,
) -> Array:  # fmt: skip
    """Sample by `cfg.sampler`: float32 [num, *shape], images in [-1, 1].

    Args:
        cfg: of the model.
        variables: of the trained model.
        key: of the noise.
        num: number of samples.
        condition: None, as the model is unconditional.
        net: the network that was trained instead of the Config's.
    """
    refuse_condition(condition)
    require_num(num)
    return _sample(cfg, variables, key, num, net)


@jit(0, 3, 4)
def _sample(cfg: Config, variables: PyTree, key: Key, num: int, net: nn.Module | None) -> Array:
    x = sample_from(cfg, denoiser(cfg, variables, net), key, num)
    return jnp.clip(x, -1, 1) if len(cfg.shape) == 3 else x


def sample_from(cfg: Config, eps_fn: EpsFn, key: Key, num: int) -> Array:
    """Sample from any denoiser by the Config's sampler: [num, *shape], not clipped at the end."""
    return SAMPLERS[cfg.sampler](cfg)(
        _clipped(cfg, eps_fn), noise_schedule(cfg), key, (num, *cfg.shape)
    )


def _clipped(cfg: Config, eps_fn: EpsFn) -> EpsFn:
    """Return a denoiser whose x̂₀ stays in [-1, 1], for images and if the Config says so."""
    if len(cfg.shape) == 3 and cfg.clip_denoised:
        return samplers.clip_denoised(eps_fn, noise_schedule(cfg))
    return eps_fn


def evaluations(cfg: Config) -> int:
    """Return how often the network is called for a sample (with guidance, on twice the batch)."""
    if cfg.sampler == "ancestral" or cfg.sample_steps is None:
        return cfg.T
    return min(cfg.T, cfg.sample_steps)


def with_evaluations(cfg: ConfigT, num: int) -> ConfigT:
    """Return a Config that samples in `num` network calls, by the second-order solver.

    Raises:
        InputError: unless 1 ≤ num ≤ T.
    """
    if not 1 <= num <= cfg.T:
        raise InputError(f"{num} network evaluations; there must be 1 to T = {cfg.T}")
    return dataclasses.replace(cfg, sampler="multistep", sample_steps=num)


def posterior(
    cfg: Config,
    variables: PyTree,
    key: Key,
    num: int,
    measurement: inverse.Measurement,
    method: str = "pigdm",
    steps: int | None = None,
    *,
    net: nn.Module | None = None,
) -> Array:
    """Sample from p(x|y), y = Ax + noise, by one of `inverse.METHODS`: [num, *shape]."""

    @jit()
    def run(variables: PyTree, key: Key) -> Array:
        schedule, eps_fn = noise_schedule(cfg), _clipped(cfg, denoiser(cfg, variables, net))
        shape = (num, *cfg.shape)
        x = inverse.METHODS[method](eps_fn, schedule, key, shape, measurement, steps)
        return jnp.clip(x, -1, 1) if len(cfg.shape) == 3 else x

    return run(variables, key)


def log_prob(
    cfg: Config,
    variables: PyTree,
    x: ArrayLike,
    key: Key | None = None,
    *,
    condition: PyTree = None,
    net: nn.Module | None = None,
) -> Array:
    """Return the ELBO, a lower bound of ln p(x): [B], in nats; T network evaluations.

    Images are taken as 8-bit: the bound is of the probability of their 256-level pixels.

    Args:
        cfg: of the model.
        variables: of the trained model.
        x: [B, *shape].
        key: of the noise, one sample for each t; None: a fixed key.
        condition: None, as the model is unconditional.
        net: the network that was trained instead of the Config's.
    """
    refuse_condition(condition)
    key = jax.random.key(0) if key is None else key
    return _log_prob(cfg, variables, check_shape({"x": x}, cfg.shape), key, net)


@jit(0, 4)
def _log_prob(cfg: Config, variables: PyTree, x: Array, key: Key, net: nn.Module | None) -> Array:
    return elbo_of(cfg, denoiser(cfg, variables, net), x, key)


def elbo_of(cfg: Config, eps_fn: EpsFn, x: Array, key: Key) -> Array:
    """Return the ELBO of x [B, *shape] under any denoiser: [B]."""
    image = len(cfg.shape) == 3
    return elbo(eps_fn, noise_schedule(cfg), x, key, cfg.variance, 256 if image else None)


def bits_per_dim(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None,
    *, net: nn.Module | None = None,
) -> Array:  # fmt: skip
    """Return an upper bound of -log₂ p(x) divided by the number of dimensions: [B]."""
    return -log_prob(cfg, variables, x, key, net=net) / (np.log(2) * np.prod(cfg.shape))


# --- training ------------------------------------------------------------------------------------


def method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: nn.Module | None = None
) -> Method:
    """Train by L_simple.

    Metrics: `loss`, the mean squared error of the prediction, per dimension.

    Args:
        cfg: of the model.
        tx: an optimiser instead of the Config's Adam.
        net: a Flax module instead of the Config's network, called as `net(z, t, train)` with
            z [B, *shape], t int32 [B] in 1..T and train a bool. It returns the prediction, of the
            shape of z; dropout draws from the RNG "dropout".

    Example:
        >>> class Net(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, z, t, train):
        ...         h = nn.Dense(16)(jnp.concatenate([z, t[:, None] / 20], axis=-1))
        ...         return nn.Dense(z.shape[-1])(nn.swish(h))
        >>> cfg, batch = Config(shape=(2,), T=20), {"x": jnp.ones((8, 2))}
        >>> m = method(cfg, net=Net())
        >>> state = m.init(jax.random.key(0), batch)
        >>> state, metrics = jax.jit(m.train_step)(jax.random.key(1), state, batch)
        >>> sample(cfg, state.variables, jax.random.key(2), 3, net=Net()).shape
        (3, 2)
    """
    used = net or network(cfg)

    def init_variables(key: Key, batch: Batch) -> PyTree:
        x = check_shape(batch, cfg.shape)
        return used.init(key, x[:1], jnp.ones(1, jnp.int32), False)

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x = check_shape(batch, cfg.shape)

        def predict(z: Array, t: Array, key: Key) -> Array:
            variables = {"params": params, **mutables}
            return jnp.asarray(used.apply(variables, z, t, True, rngs={"dropout": key}))

        return simple_loss(cfg, predict, key, x), ({}, mutables)

    return build(init_variables, with_ema(descent(loss, tx or optimizer(cfg)), cfg.ema_decay))
