r"""DDPM: denoising diffusion probabilistic models.

Ho, Jain & Abbeel 2020, *Denoising Diffusion Probabilistic Models* (2006.11239); cosine schedule and
hybrid parametrisations: Nichol & Dhariwal 2021 (2102.09672), Salimans & Ho 2022 (2202.00512).

Forward, data to noise, for t = 1..T:

    q(z_t | x) = N(√ᾱ_t x, (1-ᾱ_t) I),    ᾱ_t = Π_{k≤t} (1-β_k)

Reverse, noise to data, with a network's guess ε̂(z_t, t) of the noise:

    p(z_{t-1} | z_t) = N(μ, σ_t² I),    μ = (z_t - β_t ε̂/√(1-ᾱ_t)) / √(1-β_t)

Training minimises E ‖ε - ε̂(√ᾱ_t x + √(1-ᾱ_t) ε, t)‖², the paper's L_simple: the evidence bound

    -ln p(x) ≤ KL(q(z_T|x) ‖ N(0,I)) + Σ_{t≥2} E KL(q(z_{t-1}|z_t,x) ‖ p(z_{t-1}|z_t))
               - E ln p(x|z_1)

with its weights β_t²/(2σ_t²(1-β_t)(1-ᾱ_t)) left out. Slides that print σ_t so that every weight is
½ (`variance="unit"`) describe the loss, not a sampler: see `schedule.reverse_variances`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gengen import rng
from gengen.diffusion import inverse, samplers
from gengen.diffusion.samplers import EpsFn
from gengen.diffusion.schedule import (
    Schedule,
    cosine_schedule,
    from_betas,
    linear_schedule,
    previous_alpha_bars,
    reverse_variances,
)
from gengen.nn.mlp import TimeMLP
from gengen.nn.unet import UNet
from gengen.steps import descent, with_ema
from gengen.steps import method as close
from gengen.types import Array, Batch, InputError, Key, Method, Metrics, PyTree, Shape, check_shape
from gengen.xla import jit

__all__ = [
    "Config", "Schedule", "cosine_schedule", "denoiser", "elbo_terms", "from_betas",
    "linear_schedule", "log_prob", "method", "q_sample", "sample",
]  # fmt: skip

SAMPLERS: dict[str, Callable[[Config], Callable[..., Array]]] = {
    "ancestral": lambda cfg: partial(samplers.ancestral, variance=cfg.variance),
    "ddim": lambda cfg: partial(samplers.ddim, steps=cfg.sample_steps, eta=cfg.eta),
    "multistep": lambda cfg: partial(samplers.multistep, steps=cfg.sample_steps),
}
MAX_LEFT = 0.01  # the most that ᾱ_T may be: sampling starts from N(0, I), as if nothing were left


@dataclass(frozen=True)
class Config:
    """The paper's algorithm; networks of a size that a laptop trains (`paper()` for the paper's).

    Attributes are grouped: data, diffusion, network, training, sampling.
    """

    shape: Shape = (28, 28, 1)  # of one example: (H, W, C) in [-1, 1], or (D,)

    T: int = 1000  # steps
    schedule: str = "linear"  # or "cosine"
    beta_start: float = 0.1  # of the linear schedule, over T
    beta_end: float = 20.0  # of the linear schedule, over T
    prediction: str = "eps"  # what the network outputs: "eps", "x0" or "v"
    variance: str = "beta"  # σ_t² of the reverse step: "beta", "posterior" or "unit"

    patch: int = 2  # pixels of a side folded into channels
    channels: tuple[int, ...] = (64, 128)  # of each level of the U-Net
    blocks: tuple[int, ...] = (1, 2)  # residual blocks of each level
    attention: tuple[int, ...] = ()  # resolutions that attend, in pixels
    heads: int = 4  # of attention
    groups: int = 8  # of group normalisation
    dropout: float = 0.0  # rate
    remat: bool = False  # compute activations again for the gradient, rather than keep them
    width: int = 128  # units of the MLP, for vectors

    batch_size: int = 64  # examples a step
    learning_rate: float = 1e-3  # of Adam
    b2: float = 0.999  # of Adam: memory of the squared gradient, a step
    warmup_steps: int = 100  # of the learning rate, linear from 0
    decay_steps: int = 0  # where the learning rate has fallen to 0, on a cosine; 0: it stays
    clip_norm: float = 1.0  # of the gradient, over all parameters
    ema_decay: float = 0.9999  # a step; warmed up
    times_per_example: int = 1  # t drawn for each example of a batch

    sampler: str = "ancestral"  # "ddim" or "multistep"
    sample_steps: int | None = None  # evaluations of the network; T if None (ancestral: always)
    eta: float = 0.0  # noise of DDIM
    clip: bool = True  # x̂₀ stays in [-1, 1] while sampling images

    @staticmethod
    def paper() -> Config:
        """The widths, depths and training of the paper on CIFAR-10 (see `UNet` for its skips)."""
        return Config(
            shape=(32, 32, 3), patch=1, channels=(128, 256, 256, 256), blocks=(2, 2, 2, 2),
            attention=(16,), heads=1, groups=32, dropout=0.1, batch_size=128, learning_rate=2e-4,
            warmup_steps=5000,
        )  # fmt: skip

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        for name in ("T", "patch", "batch_size", "times_per_example", "width"):
            if getattr(self, name) < 1:
                raise InputError(f"Config.{name} = {getattr(self, name)}, but it is at least 1")
        if len(self.shape) not in (1, 3) or min(self.shape, default=0) < 1:
            raise InputError(f"Config.shape = {self.shape}, but it is (H, W, C) or (D,)")
        if not self.channels or len(self.blocks) != len(self.channels):
            raise InputError(
                f"Config.blocks = {self.blocks} and Config.channels = {self.channels}, but both "
                "have one number for each level"
            )
        if self.prediction not in ("eps", "x0", "v"):
            raise InputError(f'Config.prediction = {self.prediction!r}, not "eps", "x0" or "v"')
        if self.sampler not in SAMPLERS:
            known = ", ".join(SAMPLERS)
            raise InputError(f"Config.sampler = {self.sampler!r}, but it is one of {known}")
        if 0 < self.decay_steps <= self.warmup_steps:
            raise InputError(
                f"Config.decay_steps = {self.decay_steps}, but the decay ends after the "
                f"{self.warmup_steps} warmup_steps (0: no decay)"
            )
        if not 0 <= self.dropout < 1:
            raise InputError(f"Config.dropout = {self.dropout}, but a rate is in [0, 1)")
        left = noise_schedule(self).alpha_bars[-1]
        if left > MAX_LEFT:
            raise InputError(
                f"the {self.schedule} schedule leaves ᾱ_T = {left:.3g} of the data's variance, but "
                f"sampling starts from pure noise: make it at most {MAX_LEFT} by a larger beta_end"
            )
        reverse_variances(noise_schedule(self), self.variance)


def noise_schedule(cfg: Config) -> Schedule:
    """The forward process that a Config names."""
    if cfg.schedule == "linear":
        return linear_schedule(cfg.T, cfg.beta_start, cfg.beta_end)
    if cfg.schedule == "cosine":
        return cosine_schedule(cfg.T)
    raise InputError(f'Config.schedule = {cfg.schedule!r}, not "linear" or "cosine"')


def network(cfg: Config) -> nn.Module:
    """(z, t, train, y) → what `cfg.prediction` names: a U-Net for images, an MLP for vectors."""
    if len(cfg.shape) == 1:
        return TimeMLP(cfg.shape[0], cfg.width)
    return UNet(
        cfg.shape[-1], cfg.channels, cfg.blocks, cfg.attention, cfg.heads, cfg.groups,
        cfg.dropout, cfg.patch, cfg.remat,
    )  # fmt: skip


# --- the mathematics -----------------------------------------------------------------------------


def _at(values: np.ndarray, t: Array, ndim: int) -> Array:
    """values[t - 1], float32, shaped to multiply an array of `ndim` axes."""
    return jnp.asarray(values, jnp.float32)[t - 1].reshape(-1, *(1,) * (ndim - 1))


def _roots(schedule: Schedule, t: Array, ndim: int) -> tuple[Array, Array]:
    """√ᾱ_t and √(1-ᾱ_t)."""
    return (
        _at(np.sqrt(schedule.alpha_bars), t, ndim),
        _at(np.sqrt(schedule.one_minus_alpha_bars), t, ndim),
    )


def q_sample(schedule: Schedule, x: Array, t: Array, eps: Array) -> Array:
    """z_t = √ᾱ_t x + √(1-ᾱ_t) ε, for x, ε [B, ...] and t [B] in 1..T."""
    a, b = _roots(schedule, t, x.ndim)
    return a * x + b * eps


def target(cfg: Config, x: Array, t: Array, eps: Array) -> Array:
    """What the network is to output: ε, x, or v = √ᾱ_t ε - √(1-ᾱ_t) x."""
    if cfg.prediction == "eps":
        return eps
    if cfg.prediction == "x0":
        return x
    a, b = _roots(noise_schedule(cfg), t, x.ndim)
    return a * eps - b * x


def denoiser(cfg: Config, variables: PyTree) -> EpsFn:
    """The trained network as `eps_fn(z, t) -> ε̂`, whatever it predicts."""
    net = network(cfg)
    return as_eps(cfg, lambda z, t: jnp.asarray(net.apply(variables, z, t)))


def as_eps(cfg: Config, predict: EpsFn) -> EpsFn:
    """ε̂ of a network that outputs what `cfg.prediction` names."""
    schedule = noise_schedule(cfg)

    def eps_fn(z: Array, t: Array) -> Array:
        out = predict(z, t)
        if cfg.prediction == "eps":
            return out
        a, b = _roots(schedule, t, z.ndim)
        return (z - a * out) / b if cfg.prediction == "x0" else b * z + a * out

    return eps_fn


def simple_loss(
    cfg: Config, predict: Callable[[Array, Array, Key], Array], key: Key, x: Array
) -> Array:
    """L_simple, the mean squared error of the prediction, per dimension: [].

    The t of a batch are stratified, one in each of B equal parts of 1..T: as uniform as independent
    ones, with less noise in the gradient.

    Args:
        cfg: of the model.
        predict: (z, t, key of dropout) → what `cfg.prediction` names.
        key: of times, noise and dropout.
        x: [B, *shape]; each has `cfg.times_per_example` times, one after the other.
    """
    x = jnp.repeat(x, cfg.times_per_example, axis=0)
    time_key, noise_key, dropout_key = jax.random.split(key, 3)
    t = 1 + jnp.floor(cfg.T * rng.stratified(time_key, len(x), cfg.times_per_example))
    t = jnp.clip(t, 1, cfg.T).astype(jnp.int32)  # rounding: u < 1 may still give T · u = T
    eps = rng.normal(noise_key, x.shape)
    z = q_sample(noise_schedule(cfg), x, t, eps)
    return jnp.mean((predict(z, t, dropout_key) - target(cfg, x, t, eps)) ** 2)


def elbo_terms(
    eps_fn: EpsFn,
    schedule: Schedule,
    x: Array,
    key: Key,
    variance: str = "beta",
    levels: int | None = 256,
) -> dict[str, Array]:
    """The three terms of -ELBO, in nats per example; one draw of ε for each t.

    Args:
        eps_fn: the denoiser.
        schedule: of the forward process.
        x: [B, ...].
        key: of the noise.
        variance: σ_t² of the reverse step. "posterior" is 0 at t = 1, where β̃_2 takes its place.
        levels: x takes that many evenly spaced values in [-1, 1], each the middle of a bin whose
            probability counts (the paper's §3.3); None: x is continuous and densities count.

    Returns:
        "prior" KL(q(z_T|x) ‖ N(0,I)), "diffusion" Σ_{t≥2} KL, "reconstruction" -ln p(x|z_1): [B].
    """
    beta, alpha, rest = schedule
    axes, dims = tuple(range(1, x.ndim)), x[0].size
    sigma2 = reverse_variances(schedule, variance).copy()
    if sigma2[0] == 0:
        sigma2[0] = sigma2[min(1, len(sigma2) - 1)]
    posterior = beta * previous_alpha_bars(schedule)[1] / rest
    # KL of N(μ̃, β̃ I) from N(μ, σ² I), where μ̃ - μ = β/√((1-β)(1-ᾱ)) (ε̂ - ε).
    ratio = posterior / sigma2
    constant = 0.5 * dims * (ratio - 1 - np.log(np.where(ratio > 0, ratio, 1.0)))
    weight = beta**2 / (2 * sigma2 * (1 - beta) * rest)

    def noisy(t: Array) -> tuple[Array, Array, Array]:
        eps = rng.normal(jax.random.fold_in(key, t), x.shape)
        times = jnp.full(x.shape[0], t)
        z = q_sample(schedule, x, times, eps)
        return z, eps, eps_fn(z, times)

    def add(total: Array, now: tuple[Array, ...]) -> tuple[Array, None]:
        t, constant, weight = now
        _, eps, guess = noisy(t)
        return total + constant + weight * jnp.sum((eps - guess) ** 2, axes), None

    T = schedule.num_steps
    numbers = (jnp.arange(2, T + 1), *(jnp.asarray(c[1:], jnp.float32) for c in (constant, weight)))
    diffusion, _ = jax.lax.scan(add, jnp.zeros(x.shape[0]), numbers)
    z, _, guess = noisy(jnp.int32(1))
    mean = (z - float(beta[0] / np.sqrt(rest[0])) * guess) / float(np.sqrt(1 - beta[0]))
    sigma = float(np.sqrt(sigma2[0]))
    decoder = _log_density(x, mean, sigma) if levels is None else _log_bin(x, mean, sigma, levels)
    # ½ (ᾱ x² + (1-ᾱ) - 1 - ln(1-ᾱ)), with (1-ᾱ) - 1 = -ᾱ.
    spread = float(-alpha[-1] - np.log(rest[-1]))
    prior = 0.5 * jnp.sum(float(alpha[-1]) * x**2 + spread, axes)
    return {"prior": prior, "diffusion": diffusion, "reconstruction": -jnp.sum(decoder, axes)}


def _log_density(x: Array, mean: Array, sigma: float) -> Array:
    return -0.5 * ((x - mean) / sigma) ** 2 - float(np.log(sigma * np.sqrt(2 * np.pi)))


def _log_bin(x: Array, mean: Array, sigma: float, levels: int) -> Array:
    """Ln P(bin of x) under N(mean, σ²); the first and last bins reach to infinity."""
    half = 1 / (levels - 1)
    upper = jnp.where(x > 1 - half, jnp.inf, (x + half - mean) / sigma)
    lower = jnp.where(x < -1 + half, -jnp.inf, (x - half - mean) / sigma)
    # In the tail nearer to 0, where differences of Φ keep their digits.
    flip = lower > 0
    lower, upper = jnp.where(flip, -upper, lower), jnp.where(flip, -lower, upper)
    log_upper, log_lower = (jax.scipy.stats.norm.logcdf(upper), jax.scipy.stats.norm.logcdf(lower))
    return log_upper + jnp.log1p(-jnp.exp(jnp.minimum(log_lower - log_upper, -1e-7)))


# --- what the model can do -----------------------------------------------------------------------


def sample(cfg: Config, variables: PyTree, key: Key, num: int) -> Array:
    """Draw `num` samples by `cfg.sampler`: float32 [num, *shape], images in [-1, 1]."""
    if num < 1:
        raise InputError(f"num = {num}, but at least 1 sample is drawn")
    return _sample(cfg, variables, key, num)


@jit(0, 3)
def _sample(cfg: Config, variables: PyTree, key: Key, num: int) -> Array:
    x = draw(cfg, denoiser(cfg, variables), key, num)
    return jnp.clip(x, -1, 1) if len(cfg.shape) == 3 else x


def draw(cfg: Config, eps_fn: EpsFn, key: Key, num: int) -> Array:
    """Samples [num, *shape] of any denoiser, by the Config's sampler; x̂₀ clipped if it says so."""
    schedule = noise_schedule(cfg)
    if len(cfg.shape) == 3 and cfg.clip:
        eps_fn = samplers.clip_denoised(eps_fn, schedule)
    return SAMPLERS[cfg.sampler](cfg)(eps_fn, schedule, key, (num, *cfg.shape))


def posterior(
    cfg: Config,
    variables: PyTree,
    key: Key,
    num: int,
    seen: inverse.Seen,
    method: str = "pigdm",
    steps: int | None = None,
) -> Array:
    """Draw `num` samples of p(x|y), y = Ax + noise, by one of `inverse.METHODS`: [num, *shape]."""

    @jit()
    def draw(variables: PyTree, key: Key) -> Array:
        schedule, eps_fn = noise_schedule(cfg), denoiser(cfg, variables)
        if len(cfg.shape) == 3 and cfg.clip:
            eps_fn = samplers.clip_denoised(eps_fn, schedule)
        shape = (num, *cfg.shape)
        x = inverse.METHODS[method](eps_fn, schedule, key, shape, seen, steps)
        return jnp.clip(x, -1, 1) if len(cfg.shape) == 3 else x

    return draw(variables, key)


def log_prob(cfg: Config, variables: PyTree, x: Array, key: Key | None = None) -> Array:
    """A lower bound of ln p(x), the ELBO, from one draw of noise per step: [B], in nats.

    Images are 8-bit: the probability is that of the 256-level pixels. T evaluations.
    """
    x = check_shape({"x": x}, cfg.shape)
    return _log_prob(cfg, variables, x, jax.random.key(0) if key is None else key)


@jit(0)
def _log_prob(cfg: Config, variables: PyTree, x: Array, key: Key) -> Array:
    levels = 256 if len(cfg.shape) == 3 else None
    schedule, eps_fn = noise_schedule(cfg), denoiser(cfg, variables)
    terms = elbo_terms(eps_fn, schedule, x, key, cfg.variance, levels)
    return -sum(terms.values(), jnp.zeros(x.shape[0]))


def bits_per_dim(cfg: Config, variables: PyTree, x: Array, key: Key | None = None) -> Array:
    """-log₂ p(x)'s upper bound over the number of dimensions: [B]."""
    return -log_prob(cfg, variables, x, key) / (np.log(2) * np.prod(cfg.shape))


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """Train by L_simple; `tx` in the place of the Config's Adam.

    Metrics: `loss`, the mean squared error of the prediction, per dimension.
    """
    net = network(cfg)

    def init_variables(key: Key, batch: Batch) -> PyTree:
        x = check_shape(batch, cfg.shape)
        return net.init(key, x[:1], jnp.ones(1, jnp.int32))

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x = check_shape(batch, cfg.shape)
        apply = partial(net.apply, {"params": params, **mutables}, train=True)

        def predict(z: Array, t: Array, key: Key) -> Array:
            return jnp.asarray(apply(z, t, rngs={"dropout": key}))

        metrics: Metrics = {}
        return simple_loss(cfg, predict, key, x), (metrics, mutables)

    return close(init_variables, with_ema(descent(loss, tx or optimizer(cfg)), cfg.ema_decay))


def optimizer(cfg: Config) -> optax.GradientTransformation:
    """Adam, with a warmed-up and perhaps decaying learning rate, after clipping the gradient."""
    rate = optax.constant_schedule(cfg.learning_rate)
    if cfg.decay_steps:
        rate = optax.cosine_decay_schedule(cfg.learning_rate, cfg.decay_steps - cfg.warmup_steps)
    if cfg.warmup_steps:
        ramp = optax.linear_schedule(0.0, cfg.learning_rate, cfg.warmup_steps)
        rate = optax.join_schedules([ramp, rate], [cfg.warmup_steps])
    adam = optax.inject_hyperparams(optax.adam)(rate, b2=cfg.b2)  # the rate becomes a metric
    return optax.chain(optax.clip_by_global_norm(cfg.clip_norm), adam)
