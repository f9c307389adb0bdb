"""Learning rates of all models, and optax transforms that games and replicas need.

Each transform is a plain `optax.GradientTransformation`, to be chained with any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gengen.contract import BaseConfig
from gengen.rng import AXIS, axis_is_bound
from gengen.types import InputError, PyTree

SCHEDULES = ("constant", "cosine", "linear")
OPTIMIZERS = ("adam", "adagrad", "rmsprop", "sgd")


@dataclass(frozen=True)
class ScheduledConfig(BaseConfig):
    """Base of Configs with a `learning_rate`: how the rate changes during training."""

    # After warm-up, "constant", or a decay along a "cosine" or "linear". None: a cosine if
    # decay_steps is set, else constant.
    lr_schedule: str | None = None
    warmup_steps: int = 0  # train steps in which the learning rate rises linearly from 0
    # Train step at which the learning rate has fallen to decay_floor · learning_rate. It stays
    # there when a run is extended beyond this step. Of staged models, a step of each stage. 0: no
    # decay, or with "cosine" or "linear" the number of train steps.
    decay_steps: int = 0
    decay_floor: float = 0.0  # last learning rate of the decay, as a fraction of learning_rate


@dataclass(frozen=True)
class OptimizerConfig(ScheduledConfig):
    """Base of Configs that name their optimiser: what papers before Adam train by."""

    optimizer: str = "adam"  # or "adagrad", "rmsprop", "sgd"
    momentum: float = 0.0  # of SGD: decay of the sum of gradients, per step
    drop_steps: tuple[int, ...] = ()  # train steps at which learning rates fall to a tenth


def optimizer(
    cfg: Any,
    peak: float | None = None,
    updates: int = 1,
    momentum: float | None = None,
    b1: float = 0.9,
    b2: float | None = None,
) -> optax.GradientTransformation:
    """Return the optimiser that a Config names.

    Args:
        cfg: an `OptimizerConfig` with a `learning_rate`.
        peak: see `learning_rate`.
        updates: see `learning_rate`.
        momentum: of SGD; None: `cfg.momentum`.
        b1: of Adam.
        b2: of Adam, or the decay of RMSProp; None: 0.999 or 0.9.

    Raises:
        InputError: for an unknown name, or momentum of another optimiser than SGD.
    """
    if cfg.optimizer not in OPTIMIZERS:
        raise InputError(f"Config.optimizer = {cfg.optimizer!r}; it must be one of {OPTIMIZERS}")
    momentum = cfg.momentum if momentum is None else momentum
    if momentum and cfg.optimizer != "sgd":
        raise InputError(
            f"momentum = {momentum} is of optimizer = 'sgd', but Config.optimizer = "
            f"{cfg.optimizer!r}"
        )
    rate = learning_rate(cfg, peak, updates)
    if cfg.optimizer == "adagrad":  # Duchi et al. 2011: the sum of squares starts at 0
        return optax.adagrad(rate, initial_accumulator_value=0.0)
    if cfg.optimizer == "rmsprop":
        return optax.rmsprop(rate, decay=0.9 if b2 is None else b2)
    if cfg.optimizer == "sgd":
        return optax.sgd(rate, momentum or None)
    return optax.adam(rate, b1=b1, b2=0.999 if b2 is None else b2)


def learning_rate(cfg: Any, peak: float | None = None, updates: int = 1) -> float | optax.Schedule:
    """Return the learning rate of a Config, as optax's optimisers take it.

    Args:
        cfg: a `ScheduledConfig` with a `learning_rate`.
        peak: largest learning rate, after warm-up; None: `cfg.learning_rate`.
        updates: updates of the optimiser in a train step.

    Returns:
        A number if the rate does not change, else update → rate.

    Raises:
        InputError: for fields that contradict each other.
    """
    top: float = cfg.learning_rate if peak is None else peak
    drops = {updates * step: 0.1 for step in getattr(cfg, "drop_steps", ())}
    shape = cfg.lr_schedule or ("cosine" if cfg.decay_steps else "constant")
    _check_schedule(cfg, shape)
    warmup, length = updates * cfg.warmup_steps, updates * (cfg.decay_steps - cfg.warmup_steps)
    if shape == "constant":
        if not warmup and not drops:
            return top
        # Steps of the rate after warm-up count from its end.
        after = {step - warmup: factor for step, factor in drops.items()}
        rate = optax.piecewise_constant_schedule(top, after)
    elif shape == "cosine":
        rate = optax.cosine_decay_schedule(top, length, cfg.decay_floor)
    else:
        rate = optax.linear_schedule(top, top * cfg.decay_floor, length)
    if not warmup:
        return rate
    return optax.join_schedules([optax.linear_schedule(0.0, top, warmup), rate], [warmup])


def _check_schedule(cfg: Any, shape: str) -> None:
    """Check the fields of a `ScheduledConfig`, and the drops of an `OptimizerConfig`."""
    drops = getattr(cfg, "drop_steps", ())
    if drops and (shape != "constant" or min(drops) <= cfg.warmup_steps):
        raise InputError(
            f"Config.drop_steps = {drops}; the steps must be after warmup_steps = "
            f"{cfg.warmup_steps}, with lr_schedule = 'constant', not {shape!r}"
        )
    if shape not in SCHEDULES:
        raise InputError(
            f"Config.lr_schedule = {shape!r}; it must be one of {', '.join(SCHEDULES)}"
        )
    for name in ("warmup_steps", "decay_steps"):
        if getattr(cfg, name) < 0:
            raise InputError(f"Config.{name} = {getattr(cfg, name)}; it must be at least 0")
    if not 0 <= cfg.decay_floor <= 1:
        raise InputError(f"Config.decay_floor = {cfg.decay_floor}; it must be in [0, 1]")
    if shape == "constant":
        return
    if not cfg.decay_steps:
        raise InputError(
            f"Config.lr_schedule = {shape!r} with decay_steps = 0: set decay_steps to the number "
            "of train steps, as gengen.train does"
        )
    if cfg.decay_steps <= cfg.warmup_steps:
        raise InputError(
            f"Config.decay_steps = {cfg.decay_steps}; it must be larger than warmup_steps = "
            f"{cfg.warmup_steps}"
        )


def ascend(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Maximise: flip the sign of the gradient, then do as `tx` says.

    The sign is flipped *before* the optimiser: after it, AdamW's decay would become growth.
    """
    return optax.chain(optax.scale(-1.0), tx)


def keep_params_in(projection: Callable[[PyTree], PyTree]) -> optax.GradientTransformation:
    """Make the step end inside a set: the update becomes projection(params + update) - params.

    To be the *last* link of a chain. The sum params + update can miss the set by one rounding of
    the largest parameter, since it is computed again when the update is applied.

    Args:
        projection: maps a pytree of parameters to the nearest one in the set.
    """

    def update(updates: PyTree, params: PyTree | None) -> PyTree:
        if params is None:
            raise InputError("keep_params_in needs the parameters: call update(g, state, params)")
        wanted = projection(optax.apply_updates(params, updates))
        return jax.tree.map(jnp.subtract, wanted, params)

    return optax.stateless(update)


def clip_weights(c: float) -> optax.GradientTransformation:
    """Keep every weight in [-c, c], as the critic of Wasserstein GAN (arXiv 1701.07875) does."""
    if not c > 0:
        raise InputError(f"c = {c}, but weights are clipped to [-c, c] with c > 0")
    return keep_params_in(lambda params: optax.projections.projection_linf_ball(params, c))


def mean_over_replicas(tree: PyTree, axis: str = AXIS) -> PyTree:
    """Average the floating-point leaves over the replicas; the identity where there is no axis."""
    if not axis_is_bound(axis):
        return tree

    def mean(leaf: jax.Array) -> jax.Array:
        leaf = jnp.asarray(leaf)
        is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jax.lax.pmean(leaf, axis) if is_float else leaf

    return jax.tree.map(mean, tree)


def replica_mean(axis: str = AXIS) -> optax.GradientTransformation:
    """Average the gradients over the replicas: the *first* link of a chain.

    The mean is of gradients, pmean(grad(loss)): grad(pmean(loss)) under pmap gives each replica its
    own, unaveraged gradient. Under jit, where the axis is unbound, it is the identity.
    """
    return optax.stateless(lambda updates, params: mean_over_replicas(updates, axis))
