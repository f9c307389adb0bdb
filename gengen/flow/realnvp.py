r"""Real NVP: a normalising flow of affine couplings, with an exact density.

Dinh, Sohl-Dickstein & Bengio 2017, *Density estimation using Real NVP* (1605.08803); ActNorm:
Kingma & Dhariwal 2018, *Glow* (1807.03039).

    ln p(x) = ln N(z; 0, I) - ln |det ∂x/∂z|,    x = f_1 ∘ f_2 ∘ ... ∘ f_K (z)

Each f is an affine coupling. A mask b keeps some of the dimensions; the others are scaled and
shifted as a function of these,

    x = b⊙z + (1-b)⊙(exp(s(b⊙z))⊙z + m(b⊙z)),    ln |det| = Σ (1-b)⊙s(b⊙z)

The inverse needs no inverse of s or m, since b⊙x = b⊙z. |s| is bounded, and the last layer of the
networks is initialised to 0: an untrained flow is the identity, up to ActNorm, a constant s and m
initialised such that the first batch has mean 0 and variance 1.

Images are transformed in levels: couplings with checkerboard masks, 2×2 pixels folded into
channels, couplings with channel masks. Half of the channels then become a part of z, the others
enter the next level. A pixel v = 0..255 is dequantised and mapped to the real line (§4.1),

    y = (v + u)/256,  u ~ U[0,1);    x = logit(α + (1-2α) y)

and ln P(v) ≥ E_u ln p(y) - D ln 256: for images log_prob is a lower bound, for vectors it is exact.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gengen import rng
from gengen.contract import Task, refuse_condition, require_num
from gengen.contract import unconditional as condition_of
from gengen.flow.couplings import CouplingNet, RealNVP
from gengen.flow.pixels import to_image, to_logits
from gengen.optim import ScheduledConfig, learning_rate
from gengen.steps import descent, with_ema
from gengen.steps import method as build
from gengen.types import Array, Batch, InputError, Key, Method, Metrics, PyTree, Shape, check_shape
from gengen.xla import jit

__all__ = [
    "Config", "bits_per_dim", "condition_of", "decode", "encode", "forward", "inverse",
    "log_prob", "method", "sample",
]  # fmt: skip

LOG_PROB = "lower bound"  # of images, by dequantisation; of vectors it is exact


@dataclass(frozen=True)
class Config(ScheduledConfig):
    """The paper's flow, with networks that train in minutes on a CPU."""

    shape: Shape = (28, 28, 1)  # of one example: (H, W, C) in [-1, 1], of 8 bits; or (D,)

    alpha: float = 0.05  # the logits are of alpha..1 - alpha
    num_levels: int = 2  # of images: how often 2×2 pixels are folded into channels
    num_couplings: int = 4  # of each kind at a level; of vectors, in all
    last_couplings: int = 0  # at the resolution of images that is not folded; 0: num_couplings
    scale_bound: float = 2.0  # upper bound of |s|
    act_norm: bool = True  # before each coupling

    hidden_channels: int = 32  # of the networks s, m, for images
    num_blocks: int = 1  # residual blocks of these networks
    hidden: tuple[int, ...] = (64, 64)  # units of their hidden layers, for vectors

    batch_size: int = 64  # examples per step
    learning_rate: float = 1e-3  # of Adam
    clip_norm: float = 50.0  # of the gradient of nats per example, over all parameters
    ema_decay: float = 0.999  # of the parameters' average, per step; warmed up

    RENAMED: ClassVar[dict[str, str | None]] = {
        "levels": "num_levels", "couplings": "num_couplings", "bound": "scale_bound",
        "channels": "hidden_channels", "blocks": "num_blocks", "widths": "hidden",
    }  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """Return the paper's network and training on CIFAR-10.

        It differs from the paper in three ways: ActNorm instead of batch normalisation, residual
        blocks without weight normalisation, and no L2 penalty on the weights' scale.
        """
        return cls(
            shape=(32, 32, 3), num_levels=1, num_couplings=3, last_couplings=4, hidden_channels=64,
            num_blocks=8, batch_size=64, learning_rate=1e-3,
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data: see `task_fields`."""
        return dataclasses.replace(cls(), **task_fields(task))

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        if len(self.shape) not in (1, 3) or min(self.shape, default=0) < 1:
            raise InputError(f"Config.shape = {self.shape}; it must be (H, W, C) or (D,)")
        if self.shape == (1,):
            raise InputError("Config.shape = (1,); a coupling needs at least two dimensions")
        for name in (
            "num_couplings", "hidden_channels", "batch_size", "scale_bound", "learning_rate",
            "clip_norm",
        ):  # fmt: skip
            if not getattr(self, name) > 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be positive")
        if not 0 < self.alpha < 0.5:
            raise InputError(f"Config.alpha = {self.alpha}; it must be in (0, ½)")
        for name in ("num_levels", "last_couplings"):
            if getattr(self, name) < 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be at least 0")
        if len(self.shape) == 3 and any(n % 2**self.num_levels for n in self.shape[:2]):
            raise InputError(
                f"Config.num_levels = {self.num_levels}, but the sides of Config.shape = "
                f"{self.shape} cannot be halved that often: use num_levels = "
                f"{_halvings(self.shape)} or less"
            )


def _halvings(shape: Shape) -> int:
    """Return how often both sides of an image can be halved."""
    sides = int(np.gcd(shape[0], shape[1]))
    return (sides & -sides).bit_length() - 1


def task_fields(task: Task) -> dict[str, Any]:
    """Return the fields that depend on the data.

    Images are folded at most twice, and not below 4 pixels a side; those with an odd side not at
    all. Couplings are what compiles and trains slowly: two of each kind at a level, as in
    `experiments/realnvp_images.py`. Vectors have twelve couplings and larger batches, as in
    `experiments/realnvp_densities.py`.
    """
    if len(task.shape) == 1:
        return {"shape": task.shape, "num_couplings": 12, "batch_size": 256}
    levels = min(2, _halvings(task.shape))
    while levels and min(task.shape[:2]) < 4 * 2**levels:
        levels -= 1
    return {"shape": task.shape, "num_levels": levels, "num_couplings": 2 if levels else 4}


# --- sampling and density ------------------------------------------------------------------------


def apply(
    cfg: Config, variables: PyTree, v: Array, name: str, net: CouplingNet | None = None
) -> Any:
    """Return `forward` ("to_z") or `inverse` ("to_x"), for use in a loss."""
    return RealNVP(cfg, net).apply(variables, v, method=name)


# Not for a loss: what a train step computes depends on the context that it is traced in.
_compiled = jit(0, 3, 4, often=False)(apply)


def forward(
    cfg: Config, variables: PyTree, x: ArrayLike, *, net: CouplingNet | None = None
) -> tuple[Array, Array]:
    """Map x [B, *shape] to z [B, D].

    Args:
        cfg: of the model.
        variables: of the trained model.
        x: vectors, or logits of images (`to_logits`).
        net: the network that was trained instead of the Config's.

    Returns:
        z, and ln |det ∂x/∂z| [B].
    """
    return _compiled(cfg, variables, check_shape({"x": x}, cfg.shape), "to_z", net)


def inverse(
    cfg: Config, variables: PyTree, z: ArrayLike, *, net: CouplingNet | None = None
) -> tuple[Array, Array]:
    """Map z [B, D] to x [B, *shape], of images logits; return x and ln |det ∂x/∂z| [B].

    Raises:
        InputError: if z is of another shape.
    """
    z = jnp.asarray(z, jnp.float32)
    if z.shape[1:] != (int(np.prod(cfg.shape)),):
        raise InputError(
            f"z has shape {z.shape}; it must be [B, {np.prod(cfg.shape)}] for x of shape "
            f"{cfg.shape}"
        )
    return _compiled(cfg, variables, z, "to_x", net)


def encode(
    cfg: Config,
    variables: PyTree,
    x: ArrayLike,
    *,
    condition: PyTree = None,
    net: CouplingNet | None = None,
) -> Array:
    """Return z [B, D] of x [B, *shape]; pixels are taken at the centre of their level, u = ½."""
    refuse_condition(condition)
    x = check_shape({"x": x}, cfg.shape)
    if len(cfg.shape) == 3:
        x, _ = to_logits(cfg.alpha, x, jnp.full(x.shape, 0.5))
    return forward(cfg, variables, x, net=net)[0]


def decode(
    cfg: Config,
    variables: PyTree,
    z: ArrayLike,
    *,
    condition: PyTree = None,
    net: CouplingNet | None = None,
) -> Array:
    """Return x [B, *shape] of z [B, D], images in [-1, 1]: the inverse of `encode`."""
    refuse_condition(condition)
    x, _ = inverse(cfg, variables, z, net=net)
    return to_image(cfg.alpha, x) if len(cfg.shape) == 3 else x


def log_density(
    cfg: Config, variables: PyTree, x: Array, key: Key, net: CouplingNet | None = None
) -> Array:
    """Return `log_prob`, for use in a loss."""
    slope = jnp.zeros(len(x))
    if len(cfg.shape) == 3:
        x, slope = to_logits(cfg.alpha, x, rng.uniform(key, x.shape))
    z, log_det = apply(cfg, variables, x, "to_z", net)
    log_normal = -0.5 * (jnp.sum(z**2, axis=1) + z.shape[1] * float(np.log(2 * np.pi)))
    return log_normal - log_det + slope


_compiled_log_prob = jit(0, 4, often=False)(log_density)


def log_prob(
    cfg: Config,
    variables: PyTree,
    x: ArrayLike,
    key: Key | None = None,
    *,
    condition: PyTree = None,
    net: CouplingNet | None = None,
) -> Array:
    """Return ln p(x) of vectors, or of images a lower bound of ln P(pixels): [B], in nats.

    Args:
        cfg: of the model.
        variables: of the trained model.
        x: [B, *shape]; images in [-1, 1], of 8 bits.
        key: of the noise of dequantisation, one sample per pixel; None: a fixed key.
        condition: None, as the model is unconditional.
        net: the network that was trained instead of the Config's.
    """
    refuse_condition(condition)
    x = check_shape({"x": x}, cfg.shape)
    return _compiled_log_prob(cfg, variables, x, jax.random.key(0) if key is None else key, net)


def bits_per_dim(
    cfg: Config, variables: PyTree, x: ArrayLike, key: Key | None = None,
    *, net: CouplingNet | None = None,
) -> Array:  # fmt: skip
    """Return -log₂ P(pixels) per dimension, an upper bound of it: [B]."""
    return -log_prob(cfg, variables, x, key, net=net) / (np.log(2) * np.prod(cfg.shape))


def sample(
    cfg: Config,
    variables: PyTree,
    key: Key,
    num: int,
    *,
    condition: PyTree = None,
    net: CouplingNet | None = None,
) -> Array:
    """Return `num` samples: float32 [num, *shape], images in [-1, 1].

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


@jit(0, 3, 4, often=False)
def _sample(cfg: Config, variables: PyTree, key: Key, num: int, net: CouplingNet | None) -> Array:
    z = rng.normal(key, (num, int(np.prod(cfg.shape))))
    x, _ = inverse(cfg, variables, z, net=net)
    return to_image(cfg.alpha, x) if len(cfg.shape) == 3 else x


# --- training ------------------------------------------------------------------------------------


def init_variables(cfg: Config, key: Key, batch: Batch, net: CouplingNet | None = None) -> PyTree:
    """Return initial variables; those of ActNorm whiten the batch."""
    x = check_shape(batch, cfg.shape)
    if len(cfg.shape) == 3:
        x, _ = to_logits(cfg.alpha, x, jax.random.uniform(key, x.shape))
    return RealNVP(cfg, net).init(key, x, method="to_z")


def method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: CouplingNet | None = None
) -> Method:
    """Train by maximum likelihood.

    Metrics: `loss`, -ln p(x) in nats per example; of images `bits_per_dim` too.

    Args:
        cfg: of the model.
        tx: an optimiser instead of the Config's Adam.
        net: a class of Flax modules, or another function, instead of the Config's network of a
            coupling. `net(outputs)` makes the module of each coupling; it maps the kept
            dimensions, with 0 elsewhere, [B, H, W, C] or [B, D], to [B, ..., outputs]: s in the
            first half, m in the second. outputs is 2C, or 2D. Initialise its last layer to 0: the
            flow then starts at the identity, which keeps the first steps stable.

    Example:
        >>> from flax import linen as nn
        >>> import flax.linen as nn
        >>> class Net(nn.Module):
        ...     outputs: int
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         h = nn.tanh(nn.Dense(8)(x))
        ...         return nn.Dense(self.outputs, kernel_init=nn.initializers.zeros)(h)
        >>> cfg, batch = Config(shape=(2,), num_couplings=2), {"x": jnp.eye(2)}
        >>> m = method(cfg, net=Net)
        >>> state = m.init(jax.random.key(0), batch)
        >>> state, metrics = jax.jit(m.train_step)(jax.random.key(1), state, batch)
        >>> sample(cfg, state.variables, jax.random.key(2), 3, net=Net).shape
        (3, 2)
    """

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x = check_shape(batch, cfg.shape)
        nats = -jnp.mean(log_density(cfg, {"params": params, **mutables}, x, key, net))
        metrics: Metrics = {}
        if len(cfg.shape) == 3:
            metrics["bits_per_dim"] = nats / float(np.log(2) * np.prod(cfg.shape))
        return nats, (metrics, mutables)

    return build(
        partial(init_variables, cfg, net=net),
        with_ema(descent(loss, tx or optimizer(cfg)), cfg.ema_decay),
    )


def optimizer(cfg: Config) -> optax.GradientTransformation:
    """Return Adam with gradient clipping."""
    adam = optax.inject_hyperparams(optax.adam)(learning_rate(cfg))
    return optax.chain(optax.clip_by_global_norm(cfg.clip_norm), adam)
