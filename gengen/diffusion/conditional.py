r"""Conditional diffusion: p(x|y) for a class y, a grey image, or a small one.

Ho & Salimans 2022, *Classifier-Free Diffusion Guidance* (2207.12598); Saharia et al. 2021, *Image
Super-Resolution via Iterative Refinement* (2104.07636), and *Palette* (2111.05826).

The forward process is that of `ddpm`; the network is told y:

    min  E ‖ε - ε̂(z_t, t, y)‖²,    z_t = √ᾱ_t x + √(1-ᾱ_t) ε

A class stands beside the time; of an image y = Ax, with A one of `operators`, the network sees A⁺y
as planes beside z_t. With probability `drop` the class is not told, so that the same network knows
p(x) too, and ε̂ = (1+w) ε̂(z, t, y) - w ε̂(z, t) can be sampled with: guidance.

Draws of p(x|y), not the mean E[x|y] that a regression on y would give: each looks like the data,
and each, projected onto {x: Ax = y}, explains y (`consistent`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from gengen import rng
from gengen.diffusion import ddpm, operators, samplers
from gengen.diffusion.operators import Operator
from gengen.diffusion.samplers import EpsFn
from gengen.steps import descent, with_ema
from gengen.steps import method as close
from gengen.types import Array, Batch, InputError, Key, Method, PyTree, check_shape
from gengen.xla import jit

ROUNDS = 100  # of the projections that end a draw: each lessens what is left of the difference


@dataclass(frozen=True)
class Config(ddpm.Config):
    """That of `ddpm`, and what y is: a class, a part of the image, or both."""

    classes: int = 10  # of y, the data's "label"; 0: none is told (and nothing seen: `ddpm`)
    drop: float = 0.1  # probability that a class is not told; 0: no guidance
    guidance: float = 0.0  # w

    seen: str = ""  # of the image: "grey", "small"; "": nothing
    factor: int = 2  # a "small" image has that much shorter sides, means of pixels
    consistent: bool = True  # what a draw shows of the seen is what was given

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        super().__post_init__()
        if self.classes < 0:
            raise InputError(f"Config.classes = {self.classes}, but it is at least 0")
        if not 0 <= self.drop < 1:
            raise InputError(f"Config.drop = {self.drop}, but a probability is in [0, 1)")
        if self.guidance and not (self.drop and self.classes):
            raise InputError(
                f"Config.guidance = {self.guidance}, but it wants a network that was trained "
                "without classes too: Config.classes and Config.drop above 0"
            )
        if self.seen and self.seen not in SEEN:
            raise InputError(f"Config.seen = {self.seen!r}, but it is one of {', '.join(SEEN)}")
        if self.seen:
            operator(self)


def _grey(cfg: Config) -> Operator:
    if cfg.shape[-1] != 3 or len(cfg.shape) != 3:
        raise InputError(f'Config.seen = "grey", but Config.shape = {cfg.shape} has no colours')
    return operators.grey()


SEEN = {"grey": _grey, "small": lambda cfg: operators.box(cfg.shape, cfg.factor)}


def operator(cfg: Config) -> Operator:
    """A, where something is seen of the image: y = Ax."""
    return SEEN[cfg.seen](cfg)


# --- the network ---------------------------------------------------------------------------------


class Denoiser(nn.Module):
    """(z [B, ...], t [B], y [B, classes], planes like x) → what `cfg.prediction` names, like x."""

    cfg: Config

    @nn.compact
    def __call__(
        self, z: Array, t: Array, y: Array, planes: Array | None, train: bool = False
    ) -> Array:
        net = ddpm.network(self.cfg)
        if planes is not None:
            z = jnp.concatenate([z, planes], axis=-1)
        return net(z, t, train, y) if self.cfg.classes else net(z, t, train)


def condition(cfg: Config, y: ArrayLike | None, num: int) -> Array:
    """Classes, integers [num], as the network is told them: one-hot; None: zeros [num, classes]."""
    if y is None:
        return jnp.zeros((num, cfg.classes))
    y = jnp.asarray(y)
    if not cfg.classes or y.shape != (num,) or not jnp.issubdtype(y.dtype, jnp.integer):
        raise InputError(f"y is {y.dtype} {y.shape}: classes int [{num}], Config.classes above 0")
    return jax.nn.one_hot(y, cfg.classes)


def planes_of(cfg: Config, given: ArrayLike | None, num: int) -> Array | None:
    """A⁺y of what is given, y [num, ...], as the network sees it; None: y = 0, medium grey."""
    if not cfg.seen:
        if given is not None:
            raise InputError("something is given, but this model sees no image: Config.seen = ''")
        return None
    like = jax.eval_shape(operator(cfg).forward, jax.ShapeDtypeStruct((num, *cfg.shape), "float32"))
    if given is None:
        return operator(cfg).pinv(jnp.zeros(like.shape))
    if jnp.shape(given) != like.shape:
        raise InputError(
            f"given has shape {jnp.shape(given)}, but of a {cfg.seen} image it is {like.shape}"
        )
    return operator(cfg).pinv(jnp.asarray(given, jnp.float32))


# --- what the model can do -----------------------------------------------------------------------


def see(cfg: Config, x: ArrayLike) -> Array:
    """What is seen of images x [B, *shape]: y = Ax."""
    return operator(cfg).forward(check_shape({"x": x}, cfg.shape))


def sample(
    cfg: Config,
    variables: PyTree,
    key: Key,
    num: int,
    y: ArrayLike | None = None,
    given: ArrayLike | None = None,
) -> Array:
    """Draw `num` samples of p(x|y) by `cfg.sampler`: float32 [num, *shape], images in [-1, 1].

    Args:
        cfg: of the model.
        variables: trained.
        key: of the draw.
        num: of samples.
        y: classes, integers [num]; None: each in turn.
        given: what is seen, as `see` gives it, one for each sample; None: a medium grey.
    """
    if num < 1:
        raise InputError(f"num = {num}, but at least 1 sample is drawn")
    if cfg.classes and y is None:
        y = jnp.arange(num) % cfg.classes
    planes = planes_of(cfg, given, num)
    return _sample(cfg, variables, key, condition(cfg, y, num), planes, given)


@jit(0)
def _sample(
    cfg: Config, variables: PyTree, key: Key, y: Array, planes: Array | None, given: Array | None
) -> Array:
    x = ddpm.draw(cfg, denoiser(cfg, variables, y, planes), key, len(y))
    if cfg.consistent and given is not None:
        return explained(operator(cfg), x, given)
    return jnp.clip(x, -1, 1) if len(cfg.shape) == 3 else x


def explained(op: Operator, x: Array, y: Array) -> Array:
    """An image in [-1, 1] near x with Ax = y, by projections in turn onto either set."""
    return jax.lax.fori_loop(0, ROUNDS, lambda _, x: jnp.clip(op.project(x, y), -1, 1), x)


def denoiser(cfg: Config, variables: PyTree, y: Array, planes: Array | None = None) -> EpsFn:
    """`eps_fn(z, t) -> ε̂` given y, as `condition` gives it, and planes, as `planes_of` does."""
    net = Denoiser(cfg)
    if not cfg.guidance:
        return ddpm.as_eps(cfg, lambda z, t: jnp.asarray(net.apply(variables, z, t, y, planes)))
    told = jnp.concatenate([y, jnp.zeros_like(y)])
    seen = None if planes is None else jnp.concatenate([planes, planes])
    both = ddpm.as_eps(cfg, lambda z, t: jnp.asarray(net.apply(variables, z, t, told, seen)))
    return samplers.guided(both, cfg.guidance)


def method(cfg: Config, tx: optax.GradientTransformation | None = None) -> Method:
    """Train by L_simple; `tx` in the place of the Config's Adam. Metrics: `loss`, as in `ddpm`."""

    def tell(batch: Batch, mutables: PyTree) -> tuple[Array, Array | None]:
        x = check_shape(batch, cfg.shape)
        return x, planes_of(cfg, see(cfg, x), len(x)) if cfg.seen else None

    return told(cfg, tell, lambda batch: {}, tx)


def told(
    cfg: Config,
    tell: Callable[[Batch, PyTree], tuple[Array, Array | None]],
    mutables: Callable[[Batch], PyTree],
    tx: optax.GradientTransformation | None = None,
) -> Method:
    """The method of a `Denoiser`.

    Args:
        cfg: of the denoiser.
        tell: (a batch, the mutables) → x [B, *shape], and the planes beside it or None.
        mutables: of the first batch: what else the model is to keep.
        tx: in the place of the Config's Adam.
    """
    net = Denoiser(cfg)

    def classes(batch: Batch, num: int) -> Array:
        if cfg.classes and "label" not in batch:
            raise InputError(f'Config.classes = {cfg.classes}, but the data have no "label"')
        return condition(cfg, batch["label"] if cfg.classes else None, num)

    def init_variables(key: Key, batch: Batch) -> PyTree:
        kept = mutables(batch)
        x, planes = tell({k: v[:1] for k, v in batch.items()}, kept)
        y = classes({k: v[:1] for k, v in batch.items()}, 1)
        return {**net.init(key, x, jnp.ones(1, jnp.int32), y, planes), **kept}

    def loss(params: PyTree, mutables: PyTree, key: Key, batch: Batch):
        x, planes = tell(batch, mutables)
        y = classes(batch, len(x))
        if cfg.classes:
            key, drop_key = jax.random.split(key)
            y = jnp.where(rng.uniform(drop_key, (len(x), 1)) < cfg.drop, 0, y)
        times = partial(jnp.repeat, repeats=cfg.times_per_example, axis=0)
        y, planes = times(y), None if planes is None else times(planes)

        def predict(z: Array, t: Array, key: Key) -> Array:
            rngs = {"dropout": key}
            return jnp.asarray(net.apply({"params": params}, z, t, y, planes, True, rngs=rngs))

        return ddpm.simple_loss(cfg, predict, key, x), ({}, mutables)

    return close(init_variables, with_ema(descent(loss, tx or ddpm.optimizer(cfg)), cfg.ema_decay))
