r"""Autoencoder: a code, and the way back from it.

Rumelhart, Hinton & Williams 1986; Hinton & Salakhutdinov 2006, *Reducing the Dimensionality of Data
with Neural Networks* (Science 313). An encoder e and a decoder d, with fewer numbers in the code
than in the data, minimise

    E ‖x - d(e(x))‖²,    or, of images as probabilities t = (x+1)/2 of white and logits η = d(e(x)),
    E Σ -t ln σ(η) - (1-t) ln σ(-η)

With one affine layer each way and k codes, the best e and d project on the span of the first k
principal components, and the error is the sum of the other eigenvalues of the covariance (Baldi &
Hornik 1989). Nothing makes the codes of the data lie where codes are drawn: an autoencoder is no
generative model, and there is no `sample`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen.distributions import total
from gengen.nn.codec import Decoder, Encoder, code_map
from gengen.nn.mirror import ACTIVATIONS, MirrorMLP
from gengen.steps import descent
from gengen.steps import method as close
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, Shape, check_shape

CODE_CHANNELS = 16  # of the map that is the code of images: 32×32×3 → 4×4×16


@dataclass(frozen=True)
class Config:
    """A convolutional autoencoder of images, an MLP of vectors."""

    shape: Shape = (28, 28, 1)  # of one example: (H, W, C) in [-1, 1], or (D,)
    code: Shape = ()  # (D,) or a map (h, w, C); (): a map of 16 channels, or of vectors (2,)
    loss: str = "mse"  # ‖x - x̂‖², or "cross-entropy" of images, in nats

    channels: tuple[int, ...] = (32, 64, 128)  # of the levels, for images; (): no convolutions
    strides: tuple[int, ...] = ()  # of each level; (): 2
    widths: tuple[int, ...] = ()  # hidden layers between the levels, or a vector, and a code (D,)
    activation: str = "relu"  # without convolutions: or "sigmoid", "tanh", "linear"
    squash: bool = False  # without convolutions: the code goes through the activation too
    tied: bool = False  # without convolutions: the decoder's weights are the encoder's, transposed

    batch_size: int = 100  # examples a step
    learning_rate: float = 1e-3  # of Adam

    @staticmethod
    def paper() -> Config:
        """The 784-1000-500-250-30 network of Hinton & Salakhutdinov for MNIST, its code linear."""
        return Config(
            channels=(), widths=(1000, 500, 250), code=(30,), activation="sigmoid",
            loss="cross-entropy",
        )  # fmt: skip

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        if len(self.shape) not in (1, 3) or min(self.shape, default=0) < 1:
            raise InputError(f"Config.shape = {self.shape}, but it is (H, W, C) or (D,)")
        if len(self.code) not in (0, 1, 3) or min(self.code, default=1) < 1:
            raise InputError(f"Config.code = {self.code}, but it is (D,), (h, w, C) or ()")
        for name in ("batch_size", "learning_rate"):
            if not getattr(self, name) > 0:
                raise InputError(f"Config.{name} = {getattr(self, name)}, but it is positive")
        if self.loss not in ("mse", "cross-entropy"):
            raise InputError(f'Config.loss = {self.loss!r}, not "mse" or "cross-entropy"')
        if self.loss == "cross-entropy" and len(self.shape) == 1:
            raise InputError('Config.loss = "cross-entropy" is of images: of vectors take "mse"')
        if self.activation not in ACTIVATIONS:
            raise InputError(f"Config.activation = {self.activation!r}, not of {[*ACTIVATIONS]}")
        if is_convolutional(self) and (self.tied or self.squash or self.activation != "relu"):
            raise InputError(
                "Config.tied, squash and activation are for networks without convolutions: "
                "set channels=()"
            )
        code_shape(self)


def is_convolutional(cfg: Config) -> bool:
    """Whether images are seen as such, and not as vectors of pixels."""
    return len(cfg.shape) == 3 and bool(cfg.channels)


def code_shape(cfg: Config) -> Shape:
    """Shape of a code.

    Raises:
        InputError: if the Config's code is none that its levels can lead to.
    """
    if not is_convolutional(cfg):
        if len(cfg.code) == 3:
            raise InputError(f"Config.code = {cfg.code}, but without convolutions it is (D,)")
        return cfg.code or (CODE_CHANNELS if len(cfg.shape) == 3 else 2,)
    if cfg.strides and (len(cfg.strides) != len(cfg.channels) or min(cfg.strides) < 1):
        raise InputError(f"Config.strides = {cfg.strides}, but one ≥ 1 for each of the channels")
    if len(cfg.code) == 1:
        return cfg.code
    map_shape = code_map(cfg.shape, CODE_CHANNELS, len(cfg.channels), cfg.strides)
    if cfg.code and cfg.code[:2] != map_shape[:2]:
        raise InputError(f"Config.code = {cfg.code}, but these levels lead to {map_shape[:2]}")
    return cfg.code or map_shape


class Autoencoder(nn.Module):
    """E: x [B, *shape] → z [B, *code], and d: z → x̂, or of the cross-entropy its logits."""

    cfg: Config

    def setup(self) -> None:
        """Two convolutional networks, or an MLP and its mirror."""
        cfg, code = self.cfg, code_shape(self.cfg)
        if is_convolutional(cfg):
            sizes = (code, cfg.channels, cfg.strides, 0, cfg.widths)
            self.encoder, self.decoder = Encoder(cfg.shape, *sizes), Decoder(cfg.shape, *sizes)
        else:
            widths = (math.prod(cfg.shape), *cfg.widths, *code)
            self.mlp = MirrorMLP(widths, cfg.activation, cfg.squash, cfg.tied)

    def encode(self, x: Array) -> Array:
        """The code of x."""
        if is_convolutional(self.cfg):
            return self.encoder(x)
        return self.mlp.encode(x.reshape(x.shape[0], -1))

    def decode(self, z: Array) -> Array:
        """What the code z stands for."""
        if is_convolutional(self.cfg):
            return self.decoder(z)
        return self.mlp.decode(z).reshape(-1, *self.cfg.shape)

    def __call__(self, x: Array) -> Array:
        return self.decode(self.encode(x))


def distance(cfg: Config, x: Array, out: Array) -> Array:
    """What is minimised, of x [B, *shape] and what the decoder gives: [B], by `cfg.loss`."""
    if cfg.loss == "mse":
        return total((x - out) ** 2)
    return cross_entropy((x + 1) / 2, out)


def cross_entropy(t: Array, logits: Array) -> Array:
    """Σ -t ln σ(η) - (1-t) ln σ(-η) of probabilities t and logits η [B, ...]: [B], in nats."""
    return total(optax.sigmoid_binary_cross_entropy(logits, t))


# --- what the model can do -----------------------------------------------------------------------


def encode(cfg: Config, variables: PyTree, x: ArrayLike) -> Array:
    """The codes of x [B, *shape]: [B, *code_shape(cfg)]."""
    return _apply(cfg, variables, "encode", check_shape({"x": x}, cfg.shape))


def decode(cfg: Config, variables: PyTree, z: ArrayLike) -> Array:
    """What codes z [B, *code_shape(cfg)] stand for: [B, *shape], images in [-1, 1].

    Raises:
        InputError: for codes of another shape.
    """
    z = jnp.asarray(z, jnp.float32)
    if z.shape[1:] != code_shape(cfg):
        raise InputError(f"codes have shape {z.shape}, but they are [B, *{code_shape(cfg)}]")
    return as_data(cfg, _apply(cfg, variables, "decode", z))


def as_data(cfg: Config, out: Array) -> Array:
    """What the decoder gives, in the units of the data."""
    if cfg.loss == "cross-entropy":
        return jnp.tanh(out / 2)  # 2 σ(η) - 1
    return jnp.clip(out, -1, 1) if len(cfg.shape) == 3 else out


def reconstruct(cfg: Config, variables: PyTree, x: ArrayLike) -> Array:
    """d(e(x)) for x [B, *shape]: [B, *shape]."""
    return decode(cfg, variables, encode(cfg, variables, x))


@jax.jit(static_argnums=(0, 2))
def _apply(cfg: Config, variables: PyTree, name: str, *args: Array) -> Any:
    return Autoencoder(cfg).apply(variables, *args, method=name)


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """Train by `cfg.loss`; `tx` in the place of Adam.

    Metrics: `loss`, of an example: its squared error, or its cross-entropy in nats.
    """
    return method_from(cfg, lambda key, x: x, tx)


def method_from(
    cfg: Config, seen: Callable[[Key, Array], Array], tx: optax.GradientTransformation | None
) -> Method:
    """Train to reconstruct x from what is seen of it: `seen` (key, x [B, *shape]) → x̃."""
    net = Autoencoder(cfg)

    def init_variables(key: Key, batch: Batch) -> PyTree:
        return net.init(key, check_shape(batch, cfg.shape)[:1])

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x = check_shape(batch, cfg.shape)
        out = jnp.asarray(net.apply({"params": params}, seen(key, x)))
        return distance(cfg, x, out).mean(), ({}, mutables)

    return close(init_variables, descent(loss, tx or optax.adam(cfg.learning_rate)))
