r"""Denoising autoencoder.

Vincent, Larochelle, Bengio & Manzagol 2008, *Extracting and Composing Robust Features with
Denoising Autoencoders* (ICML). The autoencoder sees a damaged x̃ ~ q(x̃|x) and is to give back the
clean x: it minimises

    E ‖x - d(e(x̃))‖²,    or the cross-entropy of images

with q one of

    masking     a share ν of an example's numbers, chosen anew each time, becomes 0: black in images
    gaussian    x̃ = x + σε,  ε ~ N(0, I)

Copying x̃ is not optimal any more, so the code may be wider than the data. A linear autoencoder of
zero-mean data of covariance Σ, with at least as many codes as dimensions, learns under Gaussian
noise the Wiener filter W* = Σ(Σ + σ²I)⁻¹.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import optax

from gengen import rng
from gengen.autoencoder import autoencoder
from gengen.autoencoder.autoencoder import decode as decode
from gengen.autoencoder.autoencoder import encode as encode
from gengen.autoencoder.autoencoder import reconstruct as reconstruct
from gengen.types import Array, InputError, Key, Method


@dataclass(frozen=True)
class Config(autoencoder.Config):
    """The networks of `autoencoder.Config`, and the noise."""

    noise: str = "masking"  # q(x̃|x), or "gaussian"
    nu: float = 0.25  # share of the numbers of an example that masking sets to 0
    sigma: float = 0.5  # standard deviation of Gaussian noise, in the data's units

    @staticmethod
    def paper() -> Config:
        """One layer of the paper's stack for MNIST: sigmoid units, tied weights, masking."""
        return Config(
            channels=(), code=(500,), activation="sigmoid", squash=True, tied=True,
            loss="cross-entropy",
        )  # fmt: skip

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        super().__post_init__()
        if self.noise not in ("masking", "gaussian"):
            raise InputError(f'Config.noise = {self.noise!r}, not "masking" or "gaussian"')
        if not 0 <= self.nu < 1:
            raise InputError(f"Config.nu = {self.nu}, but it is a share in [0, 1)")
        if not self.sigma >= 0:
            raise InputError(f"Config.sigma = {self.sigma}, but it is at least 0")


def corrupt(cfg: Config, key: Key, x: Array) -> Array:
    """x̃ ~ q(x̃|x) for x [B, *shape]."""
    if cfg.noise == "gaussian":
        return x + cfg.sigma * rng.normal(key, x.shape)
    return mask(key, x, cfg.nu, -1.0 if x.ndim == 4 else 0.0)


def mask(key: Key, x: Array, nu: float, value: float = 0.0) -> Array:
    """X [B, ...] with the share ν of each example's numbers, rounded to a whole one, at `value`."""
    u = rng.uniform(key, (x.shape[0], x[0].size))
    num = round(nu * u.shape[1])
    if num == 0:
        return x
    last = jnp.sort(u, axis=1)[:, num - 1 : num]  # exactly `num` of them, as in the paper
    return jnp.where((u <= last).reshape(x.shape), value, x)


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """Train by `cfg.loss` from x̃ to x; `tx` in the place of Adam.

    Metrics: `loss`, of an example: its squared error, or its cross-entropy in nats.
    """
    return autoencoder.method_from(cfg, lambda key, x: corrupt(cfg, key, x), tx)
