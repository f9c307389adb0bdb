r"""Pix2pix: image-to-image translation from pairs.

Isola, Zhu, Zhou & Efros 2017, *Image-to-Image Translation with Conditional Adversarial Networks*
(1611.07004). Of each pair x is the image and y the target. The generator G translates x, the
discriminator D judges pairs, patch by patch (PatchGAN), and with the mean over patches

    D minimises   ½ E softplus(-D(x, y)) + ½ E softplus(D(x, G(x)))
    G minimises   w E softplus(-D(x, G(x))) + λ E |y - G(x)|

where the absolute difference is the mean over pixels and channels, λ = 100 and w = 1. The noise is
dropout in G, in training and in translation. With w = 0 it is plain L1 regression.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen.contract import Task, adapt, refuse_condition
from gengen.gan import networks
from gengen.gan.translators import (
    PatchGAN,
    UNet,
    check_images,
    images_in,
    images_of,
    small_levels,
)
from gengen.optim import ScheduledConfig
from gengen.steps import method as build
from gengen.steps import player, sequence, with_ema
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, Shape
from gengen.xla import jit

Networks = tuple[nn.Module, nn.Module]  # generator (x, key) and discriminator of (x, y) joined


@dataclass(frozen=True)
class Config(ScheduledConfig):
    """The paper's losses, between small networks."""

    shape: Shape = (28, 28, 1)  # of an image x: (H, W, C)
    target_shape: Shape = (28, 28, 1)  # of a target y: (H, W, C') of the same size
    channels: tuple[int, ...] = (32, 64)  # of G's levels, the finest first; each halves the sides
    skip: bool = True  # whether G has the skips of a U-Net; False: an encoder–decoder
    dropout: float = 0.0  # rate, in the coarse levels of G's way up; in translation too
    # Of D's levels, the finest first; each but the last halves the sides.
    discriminator_channels: tuple[int, ...] = (32, 64)
    l1_weight: float = 100.0  # λ, of the mean absolute difference from the target
    adversarial_weight: float = 1.0  # w, of the game in G's loss; 0: plain regression

    batch_size: int = 16  # pairs per step
    learning_rate: float = 1e-3  # of G's Adam
    discriminator_learning_rate: float = 5e-5  # of D's Adam
    b1: float = 0.5  # of Adam: decay of the gradient's average, per step
    b2: float = 0.999  # of Adam: decay of the squared gradient's average, per step
    ema_decay: float = 0.99  # of the average of the parameters that translates, per step; 0: none

    @classmethod
    def paper(cls) -> Self:
        """Return the paper's U-Net and 70×70 PatchGAN, for images of 256×256."""
        return cls(
            shape=(256, 256, 3), target_shape=(256, 256, 3),
            channels=(64, 128, 256, 512, 512, 512, 512, 512), skip=True, dropout=0.5,
            discriminator_channels=(64, 128, 256, 512), l1_weight=100.0, adversarial_weight=1.0,
            batch_size=1, learning_rate=2e-4, discriminator_learning_rate=2e-4, b1=0.5, b2=0.999,
            ema_decay=0.0,
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default for given data."""
        found = small_levels(task.shape, 32)
        return dataclasses.replace(adapt(cls(channels=found[:1]), task), channels=found)

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and what it must be.
        """
        check_images(self.shape, self.target_shape, "target_shape", 2 ** len(self.channels))
        for name in ("batch_size", "learning_rate", "discriminator_learning_rate"):
            networks.require_positive(name, getattr(self, name))
        if not self.channels or not self.discriminator_channels:
            raise InputError("Config.channels and discriminator_channels need at least one level")
        if not 0 <= self.dropout < 1:
            raise InputError(f"Config.dropout = {self.dropout}; it must be in [0, 1)")
        if min(self.l1_weight, self.adversarial_weight) < 0:
            raise InputError("Config.l1_weight and adversarial_weight must be at least 0")


def networks_of(cfg: Config, net: Networks | None = None) -> Networks:
    """Return G: (x, key) → y, and D: x and y, channels joined → logits [B, h, w]."""
    if net is not None:
        return net
    generator = UNet(cfg.target_shape[2], cfg.channels, cfg.dropout, cfg.skip)
    return generator, PatchGAN(cfg.discriminator_channels, affine=True)


def discriminator_loss(on_real: Array, on_fake: Array) -> Array:
    """Return ½ E softplus(-D) of real pairs plus ½ E softplus(D) of translated ones."""
    return 0.5 * jax.nn.softplus(-on_real).mean() + 0.5 * jax.nn.softplus(on_fake).mean()


def method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: Networks | None = None
) -> Method:
    """Return the method: one step of D, one of G.

    Metrics: `discriminator_loss`; `generator_loss` and its parts `adversarial_loss` and `l1_loss`,
    before their weights.

    Args:
        cfg: of the model.
        tx: optimiser of both, instead of Adam.
        net: generator and discriminator, called as in `networks_of`.
    """
    G, D = networks_of(cfg, net)
    for_d, for_g = (tx, tx) if tx else networks.adam(cfg)

    def translated(params: PyTree, key: Key, x: Array) -> Array:
        return jnp.asarray(G.apply({"params": params["generator"]}, x, key))

    def judged(params: PyTree, x: Array, y: Array) -> Array:
        pair = jnp.concatenate([x, y], axis=-1)
        return jnp.asarray(D.apply({"params": params["discriminator"]}, pair))

    def discrimination(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x, y = images_of(batch, cfg.shape, "target", cfg.target_shape)
        fake = translated(params, key, x)
        value = discriminator_loss(judged(params, x, y), judged(params, x, fake))
        return value, ({}, mutables)

    def translation(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x, y = images_of(batch, cfg.shape, "target", cfg.target_shape)
        fake = translated(params, key, x)
        parts = {"l1_loss": jnp.abs(y - fake).mean(), "adversarial_loss": jnp.zeros(())}
        if cfg.adversarial_weight:
            parts["adversarial_loss"] = jax.nn.softplus(-judged(params, x, fake)).mean()
        value = cfg.l1_weight * parts["l1_loss"]
        return value + cfg.adversarial_weight * parts["adversarial_loss"], (parts, mutables)

    def init_variables(key: Key, batch: Batch) -> PyTree:
        x, y = (a[:1] for a in images_of(batch, cfg.shape, "target", cfg.target_shape))
        keys = jax.random.split(key)
        pair = jnp.concatenate([x, y], axis=-1)
        generator, discriminator = G.init(keys[0], x)["params"], D.init(keys[1], pair)["params"]
        return {"params": {"generator": generator, "discriminator": discriminator}}

    step = sequence(
        player("discriminator", discrimination, for_d), player("generator", translation, for_g)
    )
    return build(init_variables, with_ema(step, cfg.ema_decay) if cfg.ema_decay else step)


def condition_of(cfg: Config, batch: Batch) -> Array:
    """Return the images x of a batch: float32 [B, *shape]."""
    return jnp.asarray(batch["image"])


def translate(
    cfg: Config,
    variables: PyTree,
    x: ArrayLike,
    key: Key,
    *,
    condition: ArrayLike | None = None,
    net: Networks | None = None,
) -> Array:
    """Return G(x): float32 [B, *target_shape] in [-1, 1].

    Args:
        cfg: of the model.
        variables: of the trained model.
        x: images [B, *shape] in [-1, 1].
        key: of the noise, dropout.
        condition: None, since x is the condition.
        net: as in `method`.
    """
    refuse_condition(condition)
    x = images_in(x, cfg.shape)
    return _translate(networks_of(cfg, net)[0], variables["params"]["generator"], x, key)


@jit(0, often=False)
def _translate(net: nn.Module, params: PyTree, x: Array, key: Key) -> Array:
    return jnp.asarray(net.apply({"params": params}, x, key))
