r"""Conditional diffusion: p(x|y) for a class y, a grey image, or a small image.

Ho & Salimans 2022, *Classifier-Free Diffusion Guidance* (2207.12598); Saharia et al. 2021, *Image
Super-Resolution via Iterative Refinement* (2104.07636), and *Palette* (2111.05826).

The forward process is that of `ddpm`; the network is conditioned on y:

    min  E ‖ε - ε̂(z_t, t, y)‖²,    z_t = √ᾱ_t x + √(1-ᾱ_t) ε

A class is added to the time embedding. Of a measurement y = Ax, with A one of `operators`, the
network sees A⁺y as planes concatenated to z_t. With probability `condition_dropout` the class is
replaced by zeros, so that the same network also models p(x), and one can sample with guidance,
ε̂ = (1+w) ε̂(z, t, y) - w ε̂(z, t).

Samples are of p(x|y). They are not the mean E[x|y], which a regression on y would give: each looks
like the data, and each is projected onto {x: Ax = y}, so that it agrees with y (`consistent`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import gcd
from typing import ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen import rng
from gengen.contract import (
    Task,
    labels_of,
    require_num,
)
from gengen.diffusion import ddpm, samplers
from gengen.diffusion.condition import (
    OPERATORS,
    condition_of,
    in_turn,
    measure,
    one_hot,
    operator,
    planes_of,
    projected,
    split_condition,
)  # fmt: skip
from gengen.diffusion.ddpm import evaluations as evaluations
from gengen.diffusion.ddpm import with_evaluations as with_evaluations
from gengen.diffusion.defaults import task_fields
from gengen.diffusion.samplers import EpsFn
from gengen.steps import descent, with_ema
from gengen.steps import method as build
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, check_shape
from gengen.xla import jit

__all__ = [
    "LOG_PROB", "OPERATORS", "Config", "Denoiser", "condition_of", "denoiser", "evaluations",
    "in_turn", "log_prob", "measure", "method", "method_of", "one_hot", "operator", "planes_of",
    "projected", "sample", "split_condition", "with_evaluations",
]  # fmt: skip

LOG_PROB = "lower bound"


@dataclass(frozen=True)
class Config(ddpm.Config):
    """The fields of `ddpm.Config`, and what y is: a class, a measurement of the image, or both."""

    num_classes: int = 10  # of the data's "label"; 0: not conditioned on a class
    condition_dropout: float = 0.1  # probability of dropping the class in training; 0: no guidance
    guidance: float = 0.0  # w; without effect where there are no classes

    condition_image: str = ""  # "grey", "small"; "": not conditioned on an image
    factor: int = 2  # the "small" image's sides are shorter by this factor, by means of pixels
    consistent: bool = True  # samples are projected onto those that agree with the measurement

    RENAMED: ClassVar[dict[str, str | None]] = {
        "classes": "num_classes", "drop": "condition_dropout", "seen": "condition_image",
    }  # fmt: skip

    @classmethod
    def paper(cls) -> Self:
        """Return the network and training of classifier-free guidance on ImageNet, 64 × 64.

        The network is that of Dhariwal & Nichol 2021 (2105.05233, table 11), of 296M parameters,
        without the half of its outputs that is the variance. Differences: the paper's times are
        continuous, and its variance interpolates between β and β̃.
        """
        return cls(
            shape=(64, 64, 3), T=1000, schedule="cosine", prediction="eps", variance="posterior",
            patch=1, channels=(192, 384, 576, 768), num_blocks=(3, 3, 3, 3),
            attention=(8, 16, 32), num_groups=32, dropout=0.1, skips="block", head_dim=64,
            resample="block",
            batch_size=2048, learning_rate=3e-4, b2=0.999, warmup_steps=5000, decay_steps=0,
            ema_decay=0.9999, sampler="ddim", sample_steps=256, eta=1.0,
            num_classes=1000, condition_dropout=0.1, guidance=0.1, condition_image="",
        )  # fmt: skip

    @classmethod
    def for_task(cls, task: Task) -> Self:
        """Return the default: conditioned on the class or, without labels, on a measurement.

        The measurement is the grey image of one in colour, else a small image.

        Raises:
            InputError: for data without labels that have neither.
        """
        return dataclasses.replace(cls(), **task_fields(task), **_condition_fields(task))

    def __post_init__(self):
        """Check the fields.

        Raises:
            InputError: naming the field and its value.
        """
        super().__post_init__()
        if self.num_classes < 0:
            raise InputError(f"Config.num_classes = {self.num_classes}; it must be at least 0")
        if not 0 <= self.condition_dropout < 1:
            raise InputError(
                f"Config.condition_dropout = {self.condition_dropout}; it must be in [0, 1)"
            )
        if self.guidance and self.num_classes and not self.condition_dropout:
            raise InputError(
                f"Config.guidance = {self.guidance} needs a network that is trained without "
                "classes too: set condition_dropout above 0, or guidance = 0"
            )
        if self.condition_image:
            if self.condition_image not in OPERATORS:
                raise InputError(
                    f"Config.condition_image = {self.condition_image!r}; it must be one of "
                    f"{', '.join(OPERATORS)}, or empty"
                )
            operator(self)


def _condition_fields(task: Task) -> dict[str, object]:
    """Return the fields that say what a default model is conditioned on."""
    if task.num_classes:
        guided = len(task.shape) == 3 and not task.accelerator  # what a small network needs
        return {"num_classes": task.num_classes, "guidance": 0.5 if guided else 0.0}
    common = gcd(*task.shape[:2]) if len(task.shape) == 3 else 1
    if len(task.shape) == 3 and task.shape[-1] == 3:
        return {"num_classes": 0, "condition_image": "grey"}
    if common > 1:
        factor = next(n for n in range(2, common + 1) if common % n == 0)
        return {"num_classes": 0, "condition_image": "small", "factor": factor}
    raise InputError(
        f"data of shape {task.shape} without labels have nothing to be conditioned on: use "
        "labelled data, or the model ddpm"
    )


# --- the network ---------------------------------------------------------------------------------


class Denoiser(nn.Module):
    """(z [B, ...], t [B], y [B, num_classes], planes like z or None) → the prediction, like z."""

    cfg: Config

    @nn.compact
    def __call__(
        self, z: Array, t: Array, y: Array, planes: Array | None, train: bool = False
    ) -> Array:
        net = ddpm.network(self.cfg)
        if planes is not None:
            z = jnp.concatenate([z, planes], axis=-1)
        return net(z, t, train, y) if self.cfg.num_classes else net(z, t, train)


def denoiser(
    cfg: Config,
    variables: PyTree,
    y: Array,
    planes: Array | None = None,
    net: nn.Module | None = None,
) -> EpsFn:
    """Return `eps_fn(z, t) -> ε̂`, with guidance, for y of `one_hot` and planes of `planes_of`."""
    used = net or Denoiser(cfg)

    def given(y: Array, planes: Array | None) -> EpsFn:
        return ddpm.as_eps(
            cfg, lambda z, t: jnp.asarray(used.apply(variables, z, t, y, planes, False))
        )

    if not (cfg.guidance and cfg.num_classes):
        return given(y, planes)
    doubled = None if planes is None else jnp.concatenate([planes, planes])
    return samplers.guided(given(jnp.concatenate([y, jnp.zeros_like(y)]), doubled), cfg.guidance)


# --- sampling and density ------------------------------------------------------------------------


def sample(
    cfg: Config,
    variables: PyTree,
    key: Key,
    num: int,
    *,
    condition: PyTree = None,
    net: nn.Module | None = None,
) -> Array:
    """Sample from p(x|y) by `cfg.sampler`: float32 [num, *shape], images in [-1, 1].

    Args:
        cfg: of the model.
        variables: of the trained model.
        key: of the noise.
        num: number of samples.
        condition: as `condition_of` returns it, `num` rows. Without labels each class is sampled
            in turn.
        net: the network that was trained instead of the Config's.

    Raises:
        InputError: for a condition that does not fit, or a missing image.
    """
    require_num(num)
    labels, y = split_condition(cfg, condition, num)
    labels = one_hot(cfg, in_turn(cfg, labels, num), num)
    return _sample(cfg, variables, key, labels, planes_of(cfg, y), y, net)


@jit(0, 6)
def _sample(
    cfg: Config, variables: PyTree, key: Key, labels: Array, planes: Array | None,
    y: Array | None, net: nn.Module | None,
) -> Array:  # fmt: skip
    x = ddpm.sample_from(cfg, denoiser(cfg, variables, labels, planes, net), key, len(labels))
    if cfg.consistent and y is not None:
        return projected(operator(cfg), x, y)
    return jnp.clip(x, -1, 1) if len(cfg.shape) == 3 else x


def log_prob(
    cfg: Config,
    variables: PyTree,
    x: ArrayLike,
    key: Key | None = None,
    *,
    condition: PyTree = None,
    net: nn.Module | None = None,
) -> Array:
    """Return the ELBO, a lower bound of ln p(x|y), without guidance: [B], in nats.

    As in `ddpm`: T network evaluations; images are taken as 8-bit.

    Args:
        cfg: of the model.
        variables: of the trained model.
        x: [B, *shape].
        key: of the noise, one sample for each t; None: a fixed key.
        condition: as `condition_of` returns it, B rows. Without labels the bound is of p(x), or
            of p(x|image), which needs a model trained with condition_dropout.
        net: the network that was trained instead of the Config's.

    Raises:
        InputError: for a condition that does not fit, or a missing one.
    """
    x = check_shape({"x": x}, cfg.shape)
    labels, y = split_condition(cfg, condition, len(x))
    if cfg.num_classes and labels is None and not cfg.condition_dropout:
        raise InputError("this model is conditioned on labels: pass condition=...")
    key = jax.random.key(0) if key is None else key
    return _log_prob(cfg, variables, x, key, one_hot(cfg, labels, len(x)), planes_of(cfg, y), net)


@jit(0, 6)
def _log_prob(
    cfg: Config, variables: PyTree, x: Array, key: Key, labels: Array, planes: Array | None,
    net: nn.Module | None,
) -> Array:  # fmt: skip
    plain = dataclasses.replace(cfg, guidance=0.0)
    return ddpm.elbo_of(cfg, denoiser(plain, variables, labels, planes, net), x, key)


# --- training ------------------------------------------------------------------------------------


def method(
    cfg: Config, tx: optax.GradientTransformation | None = None, net: nn.Module | None = None
) -> Method:
    """Train by L_simple. Metrics: `loss`, as in `ddpm`.

    Args:
        cfg: of the model.
        tx: an optimiser instead of the Config's Adam.
        net: a Flax module instead of the Config's network, called as
            `net(z, t, y, planes, train)` with z [B, *shape], t int32 [B] in 1..T, y one-hot
            [B, num_classes] (zeros where the class is dropped; [B, 0] without classes), planes
            [B, *shape] or None, and train a bool. It returns the prediction, of the shape of z.

    Example:
        >>> class Net(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, z, t, y, planes, train):
        ...         h = nn.Dense(16)(jnp.concatenate([z, t[:, None] / 20, y], axis=-1))
        ...         return nn.Dense(z.shape[-1])(nn.swish(h))
        >>> cfg = Config(shape=(2,), T=20, num_classes=3)
        >>> batch = {"x": jnp.ones((8, 2)), "label": jnp.arange(8) % 3}
        >>> m = method(cfg, net=Net())
        >>> state = m.init(jax.random.key(0), batch)
        >>> state, metrics = jax.jit(m.train_step)(jax.random.key(1), state, batch)
        >>> asked = jnp.array([2, 2, 0, 1])
        >>> sample(cfg, state.variables, jax.random.key(2), 4, condition=asked, net=Net()).shape
        (4, 2)
    """

    def inputs(batch: Batch, mutables: PyTree) -> tuple[Array, Array | None]:
        x = check_shape(batch, cfg.shape)
        return x, planes_of(cfg, measure(cfg, x)) if cfg.condition_image else None

    return method_of(cfg, inputs, lambda batch: {}, tx, net)


def method_of(
    cfg: Config,
    inputs: Callable[[Batch, PyTree], tuple[Array, Array | None]],
    mutables: Callable[[Batch], PyTree],
    tx: optax.GradientTransformation | None = None,
    net: nn.Module | None = None,
) -> Method:
    """Train a network that is called as `Denoiser` is, by L_simple.

    Args:
        cfg: of the denoiser.
        inputs: (batch, mutables) → x [B, *shape], and the planes or None.
        mutables: first batch → what else the state is to hold, by collection.
        tx: an optimiser instead of the Config's Adam.
        net: a network instead of the Config's.
    """
    used = net or Denoiser(cfg)

    def init_variables(key: Key, batch: Batch) -> PyTree:
        kept, first = mutables(batch), {k: v[:1] for k, v in batch.items()}
        x, planes = inputs(first, kept)
        y = one_hot(cfg, labels_of(cfg, first), 1)
        return {**used.init(key, x, jnp.ones(1, jnp.int32), y, planes, False), **kept}

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x, planes = inputs(batch, mutables)
        y = one_hot(cfg, labels_of(cfg, batch), len(x))
        if cfg.num_classes:
            key, drop_key = jax.random.split(key)
            y = jnp.where(rng.uniform(drop_key, (len(x), 1)) < cfg.condition_dropout, 0, y)
        times = partial(jnp.repeat, repeats=cfg.times_per_example, axis=0)
        y, planes = times(y), None if planes is None else times(planes)

        def predict(z: Array, t: Array, key: Key) -> Array:
            rngs = {"dropout": key}
            return jnp.asarray(used.apply({"params": params}, z, t, y, planes, True, rngs=rngs))

        return ddpm.simple_loss(cfg, predict, key, x), ({}, mutables)

    return build(init_variables, with_ema(descent(loss, tx or ddpm.optimizer(cfg)), cfg.ema_decay))
