"""A small algebra of train steps, as optax is one of updates.

A `Step` says what it adds to a fresh state and how it changes a state. Steps are made by `descent`,
`player` and `team`, composed by `sequence`, `repeat` and `with_ema`, and closed by `method`:

    VAE, flow, diffusion   method(init, with_ema(descent(loss, tx), 0.9999))
    GAN                    method(init, sequence(player("discriminator", ...),
                                                 player("generator", ...)))
    WGAN                   method(init, sequence(repeat(player("critic", ...), n_critic),
                                                 player("generator", ...)))

A loss is a pure function

    loss(params, mutables, key, batch) -> (value, (metrics, mutables))

of the parameters of *all* players; which of them change depends on the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gengen import rng
from gengen.optim import mean_over_replicas
from gengen.types import Array, Batch, InputError, Key, Method, Metrics, PyTree, TrainState
from gengen.xla import jit_once, scan

# In how many parts of a batch every `descent` takes its gradient: see `accumulate`.
_parts: ContextVar[int] = ContextVar("parts", default=1)
# Whether the optimiser is compiled apart from the gradient and the sum: see `_update_apart`.
_apart: ContextVar[bool] = ContextVar("apart", default=False)

OWN = ("loss", "gradient_norm", "learning_rate")  # metrics that each player has

Loss = Callable[[PyTree, PyTree, Key, Batch], tuple[Array, tuple[Metrics, PyTree]]]


class Step(NamedTuple):
    """A part of a train step.

    Attributes:
        init: adds to a fresh state what this step needs: optimiser state, moving averages.
        update: (key, state, batch) -> (state, metrics). Leaves `state.step` alone.
    """

    init: Callable[[TrainState], TrainState]
    update: Callable[[Key, TrainState, Batch], tuple[TrainState, Metrics]]


def descent(loss: Loss, tx: optax.GradientTransformation) -> Step:
    """One step of `tx` on all parameters along the gradient of `loss`, averaged over replicas.

    Metrics: `loss`, those of the loss, `gradient_norm`, and `learning_rate` if `tx` holds one
    (`optax.inject_hyperparams`).
    """

    def init(state: TrainState) -> TrainState:
        return state.replace(opt_state=tx.init(state.params))

    def update(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        # grad first, then the mean: grad(pmean(loss)) is not averaged under pmap.
        found = mean_over_replicas(_gradient(loss, state.params, state.mutables, key, batch))
        grads, mutables, metrics = found
        change = _update_apart(tx, state.step) if _apart.get() else tx.update
        updates, opt_state = change(grads, state.opt_state, state.params)
        metrics |= {"gradient_norm": optax.tree.norm(grads), **_learning_rate(opt_state)}
        params = optax.apply_updates(state.params, updates)
        return state.replace(params=params, opt_state=opt_state, mutables=mutables), metrics

    return Step(init, update)


def _gradient(
    loss: Loss, params: PyTree, mutables: PyTree, key: Key, batch: Batch
) -> tuple[PyTree, PyTree, Metrics]:
    """The gradient, mutables and metrics of this replica's batch, taken in `_parts` parts."""
    grad = jax.value_and_grad(loss, has_aux=True)
    n = _parts.get()

    def one(mutables: PyTree, xs: tuple[Array | int, Batch]):
        with rng.part_of_batch(xs[0], n):
            (value, (metrics, mutables)), grads = grad(params, mutables, key, xs[1])
        return mutables, (grads, {"loss": value, **metrics})

    if n == 1:
        mutables, (grads, metrics) = one(mutables, (0, batch))
        return grads, mutables, metrics

    def add(carry: tuple[PyTree, PyTree], xs: tuple[Array, Batch]):
        total, mutables = carry
        mutables, (grads, metrics) = one(mutables, xs)
        return (jax.tree.map(lambda t, g: t + g / n, total, grads), mutables), metrics

    start = (jax.tree.map(jnp.zeros_like, params), mutables)
    parts = jax.tree.map(lambda x: _strided_parts(x, n), batch)
    (grads, mutables), metrics = scan(add, start, (jnp.arange(n), parts), n)
    return grads, mutables, jax.tree.map(lambda m: jnp.mean(m, 0), metrics)


def _strided_parts(x: Any, n: int) -> Array:
    """[B, ...] -> [n, B / n, ...]: part k is rows k, k + n, k + 2n, ...

    Then the parts are the same however many replicas the batch is spread over.
    """
    if x.shape[0] % n:
        raise InputError(
            f"a batch of {x.shape[0]} examples cannot be split into {n} equal parts: "
            f"take a multiple of {n}"
        )
    return jnp.swapaxes(jnp.reshape(x, (-1, n, *x.shape[1:])), 0, 1)


def _update_apart(tx: optax.GradientTransformation, step: Array) -> Callable:
    """Return `tx.update`, compiled as a branch: apart from the gradient and from the new sum.

    Steps that may be skipped were always compiled so, and rounding depends on it: runs of earlier
    versions resume bit for bit.
    """

    def update(grads: PyTree, opt_state: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
        taken = lambda: tx.update(grads, opt_state, params)  # noqa: E731
        other = lambda: (optax.tree.zeros_like(grads), opt_state)  # noqa: E731
        return jax.lax.cond(step >= 0, taken, other)  # always taken, which XLA cannot know

    return update


def _learning_rate(opt_state: PyTree) -> Metrics:
    found = optax.tree_utils.tree_get_all_with_path(opt_state, "learning_rate")
    rates = [rate for path, rate in found if getattr(path[-2], "name", "") == "hyperparams"]
    return {"learning_rate": jnp.asarray(rates[0])} if rates else {}


def player(name: str, loss: Loss, tx: optax.GradientTransformation) -> Step:
    """One move of one player of a game: `params[name]` changes, all others stay as they are.

    Metrics: those of the loss; and those of `descent` with the name before them: `<name>_loss`.
    """

    def mine(state: TrainState) -> TrainState:
        """The game as this player sees it: only his own parameters and optimiser."""
        return state.replace(params=state.params[name], opt_state=state.opt_state.get(name))

    def back(state: TrainState, mine: TrainState) -> TrainState:
        return mine.replace(
            params={**state.params, name: mine.params},
            opt_state={**state.opt_state, name: mine.opt_state},
        )

    def init(state: TrainState) -> TrainState:
        return back(state, descent(loss, tx).init(mine(state)))

    def update(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        def my_loss(params: PyTree, *rest) -> tuple[Array, tuple[Metrics, PyTree]]:
            return loss({**state.params, name: params}, *rest)

        moved, metrics = descent(my_loss, tx).update(key, mine(state), batch)
        own = {f"{name}_{k}": metrics.pop(k) for k in OWN if k in metrics}
        return back(state, moved), own | metrics

    return Step(init, update)


def team(name: str, members: Sequence[str], loss: Loss, tx: optax.GradientTransformation) -> Step:
    """Return one move of several players together, with one optimiser: all others stay.

    Its state stands under `opt_state[name]`; metrics as those of `player`.
    """

    def together(params: PyTree) -> PyTree:
        others = {k: v for k, v in params.items() if k not in members}
        return {**others, name: {k: params[k] for k in members}}

    def apart(params: PyTree) -> PyTree:
        return {**{k: v for k, v in params.items() if k != name}, **params[name]}

    def team_loss(params: PyTree, *rest: Any) -> tuple[Array, tuple[Metrics, PyTree]]:
        return loss(apart(params), *rest)

    step = player(name, team_loss, tx)

    def init(state: TrainState) -> TrainState:
        state = step.init(state.replace(params=together(state.params)))
        return state.replace(params=apart(state.params))

    def update(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        state, metrics = step.update(key, state.replace(params=together(state.params)), batch)
        return state.replace(params=apart(state.params)), metrics

    return Step(init, update)


def sequence(*steps: Step) -> Step:
    """One step after the other, each with a key of its own, all with the same batch."""

    def init(state: TrainState) -> TrainState:
        for step in steps:
            state = step.init(state)
        return state

    def update(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        metrics: Metrics = {}
        for step, step_key in zip(steps, jax.random.split(key, len(steps)), strict=True):
            state, new = step.update(step_key, state, batch)
            metrics |= new
        return state, metrics

    return Step(init, update)


def repeat(step: Step, n: int) -> Step:
    """`step`, n times, each on a fresh n-th of the batch; metrics are the means.

    Part k is rows k, k + n, k + 2n, ...
    """
    if n < 1:
        raise InputError(f"n = {n}, but a step is repeated n ≥ 1 times")

    def update(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        def body(state: TrainState, xs: tuple[Key, Batch]) -> tuple[TrainState, Metrics]:
            return step.update(xs[0], state, xs[1])

        parts = jax.tree.map(lambda x: _strided_parts(x, n), batch)
        state, metrics = scan(body, state, (jax.random.split(key, n), parts), n)
        return state, jax.tree.map(lambda m: jnp.mean(m, 0), metrics)

    return Step(step.init, update)


def with_ema(step: Step, decay: float, warmup: bool = True) -> Step:
    """Follow `step` by ema ← d·ema + (1 - d)·params.

    Args:
        step: what is averaged.
        decay: d, in [0, 1).
        warmup: d = min(decay, (1 + t) / (10 + t)) at step t, so that the first, random parameters
            are soon forgotten.
    """
    if not 0 <= decay < 1:
        raise InputError(f"decay = {decay}, but an average forgets at a rate in [0, 1)")

    def init(state: TrainState) -> TrainState:
        state = step.init(state)
        # A copy: a buffer that stands twice in a state cannot be donated.
        return state.replace(ema=jax.tree.map(jnp.copy, state.params))

    def update(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        t = state.step
        d = jnp.minimum(decay, (1.0 + t) / (10.0 + t)) if warmup else decay
        state, metrics = step.update(key, state, batch)
        return state.replace(ema=optax.incremental_update(state.params, state.ema, 1 - d)), metrics

    return Step(init, update)


def method(
    init_variables: Callable[[Key, Batch], dict[str, PyTree]],
    step: Step,
    warn: Callable[[Mapping[str, float]], Sequence[str]] = lambda metrics: (),
) -> Method:
    """Close a step into a model that can be trained.

    Args:
        init_variables: (key, batch) -> Flax variables: "params", and collections of mutables.
        step: what one train step does.
        warn: see `Method`.
    """

    def init(key: Key, batch: Batch) -> TrainState:
        mutables = dict(init_variables(key, batch))
        params = mutables.pop("params")
        start = TrainState(jnp.int32(0), params, opt_state={}, mutables=mutables, ema=None)
        return step.init(start)

    def train_step(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        state, metrics = step.update(jax.random.fold_in(key, state.step), state, batch)
        return state.replace(step=state.step + 1), metrics

    # Linen's init is slow when eager, and it runs once.
    return Method(jit_once(init), train_step, warn)


def accumulate(method: Method, n: int) -> Method:
    """Take each gradient in n parts of the batch, one after the other, and apply their mean.

    A batch then needs the memory of an n-th of it (on accelerators; on CPU the loop is unrolled,
    and XLA may run its parts side by side). Noise is drawn by the position in the whole
    batch, so the step is the same up to the order of sums, but for what looks at a batch as a
    whole: batch norm sees a part at a time.
    """
    if n < 1:
        raise InputError(f"accumulate = {n}, but a gradient is taken in at least 1 part")
    return while_traced(method, lambda: _set(_parts, n))


class Skipping(NamedTuple):
    """Optimiser state of a method that skips steps.

    Attributes:
        inner: the method's own optimiser state.
        in_a_row: steps skipped since the last one that was applied, int32 [].
    """

    inner: PyTree
    in_a_row: Array


def skip_nonfinite(method: Method, in_a_row: int = 100) -> Method:
    """Skip steps that are not finite.

    A step is skipped if its loss, a gradient norm, or a number of the state that was finite before
    becomes NaN or infinite. The state stays as it was, but for `step`. The metric `skipped` is 1
    then; means over several steps leave the other metrics of skipped steps out.

    Args:
        method: what is trained.
        in_a_row: after this many skipped steps the next one is applied as it is, and training
            diverges visibly.
    """
    if in_a_row < 1:
        raise InputError(f"in_a_row = {in_a_row}; it must be at least 1")

    traced = while_traced(method, lambda: _set(_apart, True))

    def init(key: Key, batch: Batch) -> TrainState:
        state = method.init(key, batch)
        return state.replace(opt_state=Skipping(state.opt_state, jnp.int32(0)))

    def train_step(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        skipping = state.opt_state
        old = state.replace(opt_state=skipping.inner)
        new, metrics = traced.train_step(key, old, batch)
        is_finite = _stays_finite(old, new, metrics)
        # All replicas have the same state, so all must decide alike.
        is_finite = mean_over_replicas(jnp.float32(is_finite)) == 1
        is_applied = is_finite | (skipping.in_a_row >= in_a_row)
        kept = jax.tree.map(lambda a, b: jnp.where(is_applied, a, b), new, old)
        count = jnp.where(is_finite, 0, skipping.in_a_row + 1)
        state = kept.replace(step=new.step, opt_state=Skipping(kept.opt_state, count))
        return state, metrics | {"skipped": 1.0 - is_applied}

    return method._replace(init=init, train_step=train_step)


def _stays_finite(old: TrainState, new: TrainState, metrics: Metrics) -> Array:
    """Return whether a step made nothing NaN or infinite that was finite before, bool []."""
    names = ("loss", "gradient_norm")  # and those of the players of a game: "critic_loss"
    found = [jnp.isfinite(value) for name, value in metrics.items() if name.endswith(names)]
    for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
        if jnp.issubdtype(jnp.result_type(b), jnp.inexact):
            found.append(jnp.all(jnp.isfinite(b) | ~jnp.isfinite(a)))
    return jnp.all(jnp.stack(found))


def mean_metrics(metrics: Metrics) -> Metrics:
    """Return the means of metrics [n] over n steps; over those not skipped, if any was applied."""
    if "skipped" not in metrics:
        return jax.tree.map(lambda m: jnp.mean(m, 0), metrics)
    applied = 1.0 - metrics["skipped"]
    count = jnp.maximum(applied.sum(), 1.0)
    means = {k: jnp.where(applied > 0, m, 0).sum() / count for k, m in metrics.items()}
    return means | {"skipped": metrics["skipped"].mean()}


def while_traced(method: Method, entered: Callable[[], Any]) -> Method:
    """`method`, traced in the context that `entered()` makes."""

    def wrapped(function: Callable) -> Callable:
        def call(*args: Any) -> Any:
            with entered():
                return function(*args)

        return call

    # Not the jitted `init`: its trace may have been taken outside of the context.
    init = jit_once(wrapped(getattr(method.init, "__wrapped__", method.init)))
    return method._replace(init=init, train_step=wrapped(method.train_step))


@contextmanager
def _set(variable: ContextVar, value: int) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
