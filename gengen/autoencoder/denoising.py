r"""Denoising autoencoder.

Vincent, Larochelle, Bengio & Manzagol 2008, *Extracting and Composing Robust Features with
Denoising Autoencoders* (ICML). The autoencoder gets a corrupted x̃ ~ q(x̃|x) and reconstructs the
clean x. It minimises

    E ‖x - d(e(x̃))‖²,    or the cross-entropy of images

with q one of

    masking     a fraction ν of an example's numbers, chosen anew each time, is set to 0: black in
                images
    gaussian    x̃ = x + σε,  ε ~ N(0, I)

Copying x̃ is no longer optimal, so there may be more latents than dimensions. A linear autoencoder
of zero-mean data of covariance Σ, with at least as many latents as dimensions, learns under
Gaussian noise the Wiener filter W* = Σ(Σ + σ²I)⁻¹.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

import jax.numpy as jnp
import optax

from gengen import rng
from gengen.autoencoder import autoencoder
from gengen.autoencoder.autoencoder import decode as decode
from gengen.autoencoder.autoencoder import encode as encode
from gengen.autoencoder.autoencoder import reconstruct as reconstruct
from gengen.contract import Task
from gengen.contract import unconditional as condition_of
from gengen.types import Array, InputError, Key, Method

__all__ = [
    "Config", "condition_of", "corrupt", "decode", "encode", "mask", "method", "reconstruct",
]  # fmt: skip


@dataclass(frozen=True)
class Config(autoencoder.Config):
    """The networks of `autoencoder.Config`, and the noise."""

    noise: str = "masking"  # q(x̃|x), or "gaussian"
    mask_fraction: float = 0.25  # of the numbers of an example, that masking sets to 0
    noise_std: float = 0.5  # standard deviation of Gaussian noise, in the data's units

    RENAMED: ClassVar[dict[str, str | None]] = {"nu": "mask_fraction", "sigma": "noise_std"}

    @classmethod
    def paper(cls) -> Self:
        """Return one layer of the paper's stack for MNIST: sigmoid units, tied weights, masking.

        Of §4 of Vincent et al. 2008, trained by gradient descent. The paper chooses ν among 0, 10,
        25 and 40 %, and the rate by validation.
        """
        return cls(
            shape=(28, 28, 1), channels=(), latent_shape=(500,), activation="sigmoid", squash=True,
            tied=True, loss="cross-entropy", noise="masking", mask_fraction=0.25,
            optimizer="sgd", learning_rate=0.1,
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data: Gaussian noise for very short vectors.

        There a fraction of the numbers rounds to none.
        """
        cfg = super().for_task(task)
        if len(task.shape) == 1 and round(cfg.mask_fraction * task.shape[0]) == 0:
            return dataclasses.replace(cfg, noise="gaussian")
        return cfg

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        super().__post_init__()
        if self.noise not in ("masking", "gaussian"):
            raise InputError(f'Config.noise = {self.noise!r}; it must be "masking" or "gaussian"')
        if not 0 <= self.mask_fraction < 1:
            raise InputError(f"Config.mask_fraction = {self.mask_fraction}; it must be in [0, 1)")
        if not self.noise_std >= 0:
            raise InputError(f"Config.noise_std = {self.noise_std}; it must be at least 0")


def corrupt(cfg: Config, key: Key, x: Array) -> Array:
    """Sample x̃ ~ q(x̃|x) for x [B, *shape]."""
    if cfg.noise == "gaussian":
        return x + cfg.noise_std * rng.normal(key, x.shape)
    return mask(key, x, cfg.mask_fraction, -1.0 if x.ndim == 4 else 0.0)


def mask(key: Key, x: Array, fraction: float, value: float = 0.0) -> Array:
    """Set a fraction of each example's numbers, rounded to a whole number of them, to `value`."""
    u = rng.uniform(key, (x.shape[0], x[0].size))
    num = round(fraction * u.shape[1])
    if num == 0:
        return x
    last = jnp.sort(u, axis=1)[:, num - 1 : num]  # exactly `num` of them, as in the paper
    return jnp.where((u <= last).reshape(x.shape), value, x)


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """Train by `cfg.loss` from x̃ to x; `tx` instead of Adam.

    Metrics: `loss`, of an example: its squared error, or its cross-entropy in nats.
    """
    return autoencoder.method_from(cfg, lambda key, x: corrupt(cfg, key, x), tx)
