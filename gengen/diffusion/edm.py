r"""EDM: a preconditioned denoiser and a second-order sampler with churn.

Karras, Aittala, Aila & Laine 2022, *Elucidating the Design Space of Diffusion-Based Generative
Models* (2206.00364). Table 1, last column, with noisy data z = x + σ ε, ε ~ N(0, I):

    D(z; σ) = c_skip z + c_out F(c_in z, c_noise)
    c_skip  = σ_data²/(σ² + σ_data²)         c_in    = 1/√(σ² + σ_data²)
    c_out   = σ σ_data/√(σ² + σ_data²)       c_noise = ¼ ln σ
    min  E λ(σ) ‖D(z; σ) - x‖²,  λ = (σ² + σ_data²)/(σ σ_data)²,  ln σ ~ N(P_mean, P_std²)

For data of variance σ_data² the inputs of F and its targets have variance 1 at every σ. The weights
are such that λ c_out² = 1. At the minimum D is E[x | z], and the flow dz/dσ = (z - D(z; σ))/σ
carries N(0, σ_max² I) to the data. Sampling solves it (algorithm 2) through

    σ_i = (σ_max^(1/ρ) + i/(N-1) (σ_min^(1/ρ) - σ_max^(1/ρ)))^ρ,  i < N,    σ_N = 0

Churn raises σ_i to σ̂ = (1 + γ) σ_i by fresh noise before a step, γ = min(S_churn/N, √2 - 1), where
S_tmin ≤ σ_i ≤ S_tmax.
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

from gengen import rng
from gengen.contract import require_num
from gengen.diffusion import continuous
from gengen.diffusion.continuous import ContinuousConfig, Field, Function
from gengen.diffusion.continuous import condition_of as condition_of
from gengen.diffusion.defaults import check_choice
from gengen.types import Array, InputError, Key, Method, PyTree, Shape
from gengen.xla import jit

Denoise = Callable[[Array, Array], Array]  # (z [B, ...], σ [B]) → E[x | z], like z
SOLVERS = ("heun", "euler")
ConfigT = TypeVar("ConfigT", bound="Config")


@dataclass(frozen=True)
class Config(ContinuousConfig):
    """Data, network, training and sampling: good settings for minutes on a CPU."""

    sigma_data: float = 0.5  # standard deviation of the data, in their unit
    P_mean: float = -1.2  # of ln σ in training
    P_std: float = 1.2  # of ln σ in training

    solver: str = "heun"  # or "euler", without the correction of a step
    sample_steps: int = 35  # network evaluations: 2N - 1 with "heun", an odd number; N with "euler"
    sigma_min: float = 0.002  # last σ of sampling but 0, in the data's unit
    sigma_max: float = 80.0  # first σ of sampling, in the data's unit
    rho: float = 7.0  # exponent of the schedule of σ; 1: evenly spaced
    S_churn: float = 0.0  # noise of sampling, γ N; 0: none
    S_tmin: float = 0.05  # least σ with noise; here and below the paper's on ImageNet
    S_tmax: float = 50.0  # largest σ with noise
    S_noise: float = 1.003  # standard deviation of the noise

    @classmethod
    def paper(cls) -> Self:
        """Return the paper's training on CIFAR-10, unconditional (config F of table 2; appendix F).

        The paper's network is DDPM++: this U-Net with skip connections scaled by √½ and other
        initial weights. It augments a share of 12 % of the images, which this does not.
        """
        return cls(
            shape=(32, 32, 3), patch=1, channels=(256, 256, 256), num_blocks=(4, 4, 4),
            skips="block", resample="block", time_scale=False, attention=(16,), num_heads=1,
            num_groups=32, dropout=0.13, batch_size=512, learning_rate=1e-3, b2=0.999,
            warmup_steps=19_531, clip_norm=1e9, ema_decay=0.99929, sample_steps=35,
        )  # fmt: skip

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        super().__post_init__()
        check_choice(self, "solver", SOLVERS)
        for name in ("sigma_data", "P_std", "sigma_min", "rho", "sample_steps"):
            if not getattr(self, name) > 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be positive")
        if self.sigma_max <= self.sigma_min:
            raise InputError(
                f"Config.sigma_max = {self.sigma_max}; it must be larger than sigma_min = "
                f"{self.sigma_min}"
            )
        if self.S_churn < 0 or self.S_noise < 0:
            raise InputError(
                f"Config.S_churn = {self.S_churn} and Config.S_noise = {self.S_noise}; they must "
                "be at least 0"
            )
        if self.solver == "heun" and self.sample_steps % 2 == 0:
            raise InputError(
                f'Config.sample_steps = {self.sample_steps}; solver = "heun" evaluates the network '
                "2N - 1 times: take an odd number"
            )


# --- the mathematics -----------------------------------------------------------------------------


class Preconditioning(NamedTuple):
    """The coefficients of table 1 at some σ, of the shape of σ."""

    c_skip: Array
    c_out: Array
    c_in: Array
    c_noise: Array


def preconditioning(sigma: Array, sigma_data: float) -> Preconditioning:
    """Return c_skip, c_out, c_in and c_noise at σ > 0 of any shape."""
    root = jnp.sqrt(sigma**2 + sigma_data**2)
    return Preconditioning(
        (sigma_data / root) ** 2, sigma * sigma_data / root, 1 / root, jnp.log(sigma) / 4
    )


def loss_weight(sigma: Array, sigma_data: float) -> Array:
    """Return λ(σ) = 1/c_out²."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def preconditioned(cfg: Config, network: Function) -> Denoise:
    """Return D(z; σ) of a network F(c_in z, c_noise)."""

    def denoise(z: Array, sigma: Array) -> Array:
        c = preconditioning(sigma, cfg.sigma_data)
        skip, out, scale = (continuous.spread(v, z) for v in c[:3])
        return skip * z + out * network(scale * z, c.c_noise)

    return denoise


def denoiser(cfg: Config, variables: PyTree, y: Array, net: nn.Module | None = None) -> Denoise:
    """Return the trained D(z; σ), with guidance, for one-hot classes y [B, num_classes].

    Guidance of F is guidance of D, which is linear in F.
    """
    return preconditioned(cfg, continuous.output(cfg, variables, y, net))


def noise_levels(num: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> np.ndarray:
    """Return σ_0 = σ_max, ..., σ_{N-1} = σ_min, σ_N = 0 for `num` = N steps: float64 [N + 1].

    With one step it goes from σ_max to 0.
    """
    ends = np.array([sigma_max, sigma_min]) ** (1 / rho)
    return np.append((ends[0] + np.arange(num) / max(num - 1, 1) * (ends[1] - ends[0])) ** rho, 0)


# --- sampling ------------------------------------------------------------------------------------


class Churn(NamedTuple):
    """Noise of algorithm 2, in the paper's symbols: see `Config`."""

    S_churn: float = 0.0
    S_tmin: float = 0.0
    S_tmax: float = float("inf")
    S_noise: float = 1.0


NO_CHURN = Churn()


def solve(
    denoise: Denoise, key: Key, shape: Shape, sigmas: np.ndarray, churn: Churn = NO_CHURN,
    solver: str = "heun",
) -> Array:  # fmt: skip
    """Sample by algorithm 2, in one `lax.scan`.

    Args:
        denoise: D(z; σ).
        key: of the start and of the churn.
        shape: [B, ...] of the samples.
        sigmas: σ_0 > σ_1 > ... > σ_N ≥ 0: [N + 1]. A step that ends at 0 is not corrected.
        churn: of each step.
        solver: "heun", two evaluations a step, or "euler", one.

    Returns:
        Samples, float32 of `shape`.
    """
    now, after = np.asarray(sigmas, np.float64)[:-1], np.asarray(sigmas, np.float64)[1:]
    gamma = np.full(len(now), min(churn.S_churn / len(now), np.sqrt(2) - 1))
    gamma[(now < churn.S_tmin) | (now > churn.S_tmax)] = 0
    raised = (1 + gamma) * now
    added = churn.S_noise * np.sqrt(raised**2 - now**2)
    rules = jnp.asarray(np.stack([raised, added, after], 1))
    noisy = bool(added.any())

    def slope(z: Array, sigma: Array) -> Array:
        return (z - denoise(z, jnp.full(shape[0], sigma))) / sigma

    def step(z: Array, i: Array, rule: Array, corrected: bool) -> Array:
        sigma, std, end = rule
        if noisy:
            z = z + std * rng.normal(jax.random.fold_in(key, i + 1), shape)
        d = slope(z, sigma)
        new = z + (end - sigma) * d
        if corrected:
            new = z + (end - sigma) * (d + slope(new, end)) / 2
        return new

    whole = len(now) - int(after[-1] == 0)  # steps that can be corrected
    z = now[0] * rng.normal(jax.random.fold_in(key, 0), shape)
    z, _ = jax.lax.scan(
        lambda z, at: (step(z, *at, solver == "heun").astype(z.dtype), None),
        z, (jnp.arange(whole), rules[:whole]),
    )  # fmt: skip
    return z if whole == len(now) else step(z, jnp.asarray(whole), rules[whole], False)


def sample(
    cfg: Config, variables: PyTree, key: Key, num: int, *,
    condition: ArrayLike | None = None, net: nn.Module | None = None,
) -> Array:  # fmt: skip
    """Sample by `cfg.solver`: float32 [num, *shape], images in [-1, 1].

    Args:
        cfg: of the model.
        variables: of the trained model.
        key: of the start and, with churn, of the noise.
        num: number of samples.
        condition: labels [num], if Config.num_classes is above 0; None: each class in turn.
        net: the network that was trained instead of the Config's.
    """
    require_num(num)
    y = continuous.classes_to_sample(cfg, condition, num)
    return _sample(cfg, variables, key, y, net)


@jit(0, 4)
def _sample(cfg: Config, variables: PyTree, key: Key, y: Array, net: nn.Module | None) -> Array:
    steps = (cfg.sample_steps + 1) // 2 if cfg.solver == "heun" else cfg.sample_steps
    sigmas = noise_levels(steps, cfg.sigma_min, cfg.sigma_max, cfg.rho)
    churn = Churn(cfg.S_churn, cfg.S_tmin, cfg.S_tmax, cfg.S_noise)
    denoise, shape = denoiser(cfg, variables, y, net), (len(y), *cfg.shape)
    x = solve(denoise, key, shape, sigmas, churn, cfg.solver)
    return jnp.clip(x, -1, 1) if len(cfg.shape) == 3 else x


def evaluations(cfg: Config) -> int:
    """Return how often the network is called for a sample (with guidance, on twice the batch)."""
    return cfg.sample_steps


def with_evaluations(cfg: ConfigT, num: int) -> ConfigT:
    """Return a Config that samples in `num` network calls; by Euler's method if `num` is even.

    Raises:
        InputError: for fewer than 1.
    """
    return dataclasses.replace(cfg, solver="heun" if num % 2 else "euler", sample_steps=num)


# --- training ------------------------------------------------------------------------------------


def method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: nn.Module | None = None
) -> Method:
    """Train by the weighted squared error of D.

    Metrics: `loss`, the mean of λ(σ) ‖D - x‖² per dimension.

    Args:
        cfg: of the model.
        tx: an optimiser instead of the Config's Adam.
        net: a Flax module instead of the Config's network, the F of the equations, called as
            `net(z, t, y, train)` with z [B, *shape] = c_in (x + σ ε), t float32 [B] = c_noise,
            y one-hot [B, num_classes] (zeros where the class is dropped; [B, 0] without classes)
            and train a bool. It returns an array like z; dropout samples from the RNG "dropout".

    Example:
        >>> cfg, batch = Config(shape=(2,), hidden_dim=16), {"x": jnp.ones((8, 2))}
        >>> m = method(cfg)
        >>> state = m.init(jax.random.key(0), batch)
        >>> state, metrics = jax.jit(m.train_step)(jax.random.key(1), state, batch)
        >>> sample(cfg, state.variables, jax.random.key(2), 3).shape
        (3, 2)
    """

    def loss(predict: Function, time_key: Key, noise_key: Key, x: Array) -> Array:
        ln_sigma = cfg.P_mean + cfg.P_std * continuous.normal_quantiles(time_key, len(x))
        sigma = jnp.exp(ln_sigma).astype(x.dtype)
        z = x + continuous.spread(sigma, x) * rng.normal(noise_key, x.shape)
        error = preconditioned(cfg, predict)(z, sigma) - x
        return jnp.mean(continuous.spread(loss_weight(sigma, cfg.sigma_data), x) * error**2)

    return continuous.train(cfg, loss, tx, net or Field(cfg))
