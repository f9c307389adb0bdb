r"""Autoencoder: a low-dimensional code of the data.

Rumelhart, Hinton & Williams 1986; Hinton & Salakhutdinov 2006, *Reducing the Dimensionality of Data
with Neural Networks* (Science 313). An encoder e and a decoder d, with fewer numbers in the latents
than in the data, minimise

    E ‖x - d(e(x))‖²,    or, of images as probabilities t = (x+1)/2 of white and logits η = d(e(x)),
    E Σ -t ln σ(η) - (1-t) ln σ(-η)

With one affine layer each and k latents, the best e and d project onto the span of the first k
principal components, and the error is the sum of the other eigenvalues of the covariance (Baldi &
Hornik 1989). Nothing makes the latents of the data follow a known distribution: an autoencoder is
not a generative model, and there is no `sample`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen.contract import Task, adapt, refuse_condition
from gengen.contract import unconditional as condition_of
from gengen.distributions import total
from gengen.nn.codec import Decoder, Encoder, code_map
from gengen.nn.mirror import ACTIVATIONS, MirrorMLP
from gengen.optim import OptimizerConfig, optimizer
from gengen.steps import descent
from gengen.steps import method as build
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, Shape, check_shape
from gengen.xla import jit

__all__ = [
    "Config", "as_data", "condition_of", "cross_entropy", "decode", "distance", "encode",
    "latent_shape", "method", "method_from", "reconstruct",
]  # fmt: skip

MAP_CHANNELS = 16  # of the latent map of images: 32×32×3 → 4×4×16


@dataclass(frozen=True)
class Config(OptimizerConfig):
    """A convolutional autoencoder of images, an MLP of vectors."""

    shape: Shape = (28, 28, 1)  # of one example: (H, W, C) in [-1, 1], or (D,)
    # (D,) or a map (h, w, C); (): a map of 16 channels of images, (2,) of vectors
    latent_shape: Shape = ()
    loss: str = "mse"  # ‖x - x̂‖², or "cross-entropy" of images, in nats

    channels: tuple[int, ...] = (32, 64, 128)  # of the levels, for images; (): no convolutions
    strides: tuple[int, ...] = ()  # of each level; (): 2
    hidden: tuple[int, ...] = ()  # layers between the levels, or a vector, and latents (D,)
    activation: str = "relu"  # without convolutions: or "sigmoid", "tanh", "linear"
    squash: bool = False  # without convolutions: whether the latents go through the activation too
    tied: bool = False  # without convolutions: the decoder's weights are the encoder's, transposed

    batch_size: int = 100  # examples per step
    learning_rate: float = 1e-3  # of the optimiser

    RENAMED: ClassVar[dict[str, str | None]] = {"code": "latent_shape", "widths": "hidden"}

    @classmethod
    def paper(cls) -> Self:
        """Return the 784-1000-500-250-30 network of Hinton & Salakhutdinov for MNIST.

        Differences: the paper pretrains by restricted Boltzmann machines and then trains by
        conjugate gradients, this has Adam from random weights.
        """
        return cls(
            shape=(28, 28, 1), channels=(), hidden=(1000, 500, 250), latent_shape=(30,),
            activation="sigmoid", loss="cross-entropy",
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data: for vectors a quarter as many latents, at most 16."""
        cfg = adapt(cls(), task)
        if len(task.shape) == 3:
            return cfg
        latent_dim = max(1, min(16, task.shape[0] // 4))
        return dataclasses.replace(cfg, latent_shape=(latent_dim,), hidden=(256,))

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        if len(self.shape) not in (1, 3) or min(self.shape, default=0) < 1:
            raise InputError(f"Config.shape = {self.shape}; it must be (H, W, C) or (D,)")
        if len(self.latent_shape) not in (0, 1, 3) or min(self.latent_shape, default=1) < 1:
            raise InputError(
                f"Config.latent_shape = {self.latent_shape}; it must be (D,), (h, w, C) or ()"
            )
        for name in ("batch_size", "learning_rate"):
            if not getattr(self, name) > 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}; it must be positive")
        if self.loss not in ("mse", "cross-entropy"):
            raise InputError(f'Config.loss = {self.loss!r}; it must be "mse" or "cross-entropy"')
        if self.loss == "cross-entropy" and len(self.shape) == 1:
            raise InputError('Config.loss = "cross-entropy" is for images: use "mse" for vectors')
        if self.activation not in ACTIVATIONS:
            raise InputError(
                f"Config.activation = {self.activation!r}; it must be one of {[*ACTIVATIONS]}"
            )
        if is_convolutional(self) and (self.tied or self.squash or self.activation != "relu"):
            raise InputError(
                "Config.tied, squash and activation are for networks without convolutions: "
                "set channels=()"
            )
        latent_shape(self)


def is_convolutional(cfg: Config) -> bool:
    """Return whether the networks are convolutional: images are not vectors of pixels."""
    return len(cfg.shape) == 3 and bool(cfg.channels)


def latent_shape(cfg: Config) -> Shape:
    """Return the shape of an example's latents.

    Raises:
        InputError: if the Config's levels do not lead to it.
    """
    if not is_convolutional(cfg):
        if len(cfg.latent_shape) == 3:
            raise InputError(
                f"Config.latent_shape = {cfg.latent_shape}; without convolutions it must be (D,)"
            )
        return cfg.latent_shape or (MAP_CHANNELS if len(cfg.shape) == 3 else 2,)
    if cfg.strides and (len(cfg.strides) != len(cfg.channels) or min(cfg.strides) < 1):
        raise InputError(f"Config.strides = {cfg.strides}; give one ≥ 1 for each level of channels")
    if len(cfg.latent_shape) == 1:
        return cfg.latent_shape
    map_shape = code_map(cfg.shape, MAP_CHANNELS, len(cfg.channels), cfg.strides)
    if cfg.latent_shape and cfg.latent_shape[:2] != map_shape[:2]:
        raise InputError(
            f"Config.latent_shape = {cfg.latent_shape}, but these levels lead to (h, w) = "
            f"{map_shape[:2]}"
        )
    return cfg.latent_shape or map_shape


class Autoencoder(nn.Module):
    """E: x [B, *shape] → z [B, *latent_shape], and d: z → x̂, or logits for the cross-entropy."""

    cfg: Config

    def setup(self) -> None:
        """Create two convolutional networks, or an MLP and its mirror image."""
        cfg, latents = self.cfg, latent_shape(self.cfg)
        if is_convolutional(cfg):
            sizes = (latents, cfg.channels, cfg.strides, 0, cfg.hidden)
            self.encoder, self.decoder = Encoder(cfg.shape, *sizes), Decoder(cfg.shape, *sizes)
        else:
            layers = (math.prod(cfg.shape), *cfg.hidden, *latents)
            self.mlp = MirrorMLP(layers, cfg.activation, cfg.squash, cfg.tied)

    def encode(self, x: Array) -> Array:
        """Return the latents of x."""
        if is_convolutional(self.cfg):
            return self.encoder(x)
        return self.mlp.encode(x.reshape(x.shape[0], -1))

    def decode(self, z: Array) -> Array:
        """Return the outputs for latents z."""
        if is_convolutional(self.cfg):
            return self.decoder(z)
        return self.mlp.decode(z).reshape(-1, *self.cfg.shape)

    def __call__(self, x: Array) -> Array:
        return self.decode(self.encode(x))


def distance(cfg: Config, x: Array, out: Array) -> Array:
    """Return the error of the decoder's outputs for x [B, *shape]: [B], by `cfg.loss`."""
    if cfg.loss == "mse":
        return total((x - out) ** 2)
    return cross_entropy((x + 1) / 2, out)


def cross_entropy(t: Array, logits: Array) -> Array:
    """Return Σ -t ln σ(η) - (1-t) ln σ(-η), probabilities t and logits η [B, ...]: [B], nats."""
    return total(optax.sigmoid_binary_cross_entropy(logits, t))


# --- what the model can do -----------------------------------------------------------------------


def encode(cfg: Config, variables: PyTree, x: ArrayLike, *, condition: PyTree = None) -> Array:
    """Return the latents of x [B, *shape]: [B, *latent_shape(cfg)]; `condition` is None."""
    refuse_condition(condition)
    return _apply(cfg, variables, "encode", check_shape({"x": x}, cfg.shape))


def decode(cfg: Config, variables: PyTree, z: ArrayLike, *, condition: PyTree = None) -> Array:
    """Return d(z) for z [B, *latent_shape(cfg)]: [B, *shape], images in [-1, 1].

    Raises:
        InputError: for latents of another shape, or if there is a condition.
    """
    refuse_condition(condition)
    z = jnp.asarray(z, jnp.float32)
    if z.shape[1:] != latent_shape(cfg):
        raise InputError(f"latents have shape {z.shape}; they must be [B, *{latent_shape(cfg)}]")
    return as_data(cfg, _apply(cfg, variables, "decode", z))


def as_data(cfg: Config, out: Array) -> Array:
    """Return the decoder's outputs in the units of the data."""
    if cfg.loss == "cross-entropy":
        return jnp.tanh(out / 2)  # 2 σ(η) - 1
    return jnp.clip(out, -1, 1) if len(cfg.shape) == 3 else out


def reconstruct(cfg: Config, variables: PyTree, x: ArrayLike, *, condition: PyTree = None) -> Array:
    """Return d(e(x)) for x [B, *shape]: [B, *shape]; `condition` is None."""
    return decode(cfg, variables, encode(cfg, variables, x, condition=condition))


@jit(0, 2, often=False)
def _apply(cfg: Config, variables: PyTree, name: str, *args: Array) -> Any:
    return Autoencoder(cfg).apply(variables, *args, method=name)


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """Train by `cfg.loss`; `tx` instead of Adam.

    Metrics: `loss`, of an example: its squared error, or its cross-entropy in nats.
    """
    return method_from(cfg, lambda key, x: x, tx)


def method_from(
    cfg: Config, corrupt: Callable[[Key, Array], Array], tx: optax.GradientTransformation | None
) -> Method:
    """Train to reconstruct x from x̃, by `corrupt`: (key, x [B, *shape]) → x̃."""
    net = Autoencoder(cfg)

    def init_variables(key: Key, batch: Batch) -> PyTree:
        return net.init(key, check_shape(batch, cfg.shape)[:1])

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x = check_shape(batch, cfg.shape)
        out = jnp.asarray(net.apply({"params": params}, corrupt(key, x)))
        return distance(cfg, x, out).mean(), ({}, mutables)

    return build(init_variables, descent(loss, tx or optimizer(cfg)))
