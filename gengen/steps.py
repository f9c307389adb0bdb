"""A small algebra of train steps, as optax is one of updates.

A `Step` says what it adds to a fresh state and how it changes a state. Steps are made by `descent`
and `player`, composed by `sequence`, `repeat` and `with_ema`, and closed by `method`:

    VAE, flow, diffusion   method(init, with_ema(descent(loss, tx), 0.9999))
    GAN                    method(init, sequence(player("discriminator", ...),
                                                 player("generator", ...)))
    WGAN                   method(init, sequence(repeat(player("critic", ...), n_critic),
                                                 player("generator", ...)))

A loss is a pure function

    loss(params, mutables, key, batch) -> (value, (metrics, mutables))

of the parameters of *all* players; who moves is the step's affair.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gengen.optim import mean_over_replicas, replica_mean
from gengen.types import Array, Batch, InputError, Key, Method, Metrics, PyTree, TrainState
from gengen.xla import run_once_options, scan

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
    """One step of `tx` on all parameters along the gradient of `loss`, averaged over replicas."""
    tx = optax.chain(replica_mean(), tx)

    def init(state: TrainState) -> TrainState:
        return state.replace(opt_state=tx.init(state.params))

    def update(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        grad = jax.value_and_grad(loss, has_aux=True)
        (value, (metrics, mutables)), grads = grad(state.params, state.mutables, key, batch)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        state = state.replace(
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            mutables=mean_over_replicas(mutables),
        )
        return state, mean_over_replicas({"loss": value, **metrics})

    return Step(init, update)


def player(name: str, loss: Loss, tx: optax.GradientTransformation) -> Step:
    """One move of one player of a game: `params[name]` changes, all others stay as they are.

    Metrics: `<name>_loss`, and those of the loss.
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
        return back(state, moved), {f"{name}_loss": metrics.pop("loss"), **metrics}

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

    Part k is rows k, k + n, k + 2n, ...: then the parts are the same however many replicas the
    batch is spread over.
    """
    if n < 1:
        raise InputError(f"n = {n}, but a step is repeated n ≥ 1 times")

    def update(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        def part(x: PyTree) -> Array:
            if x.shape[0] % n:
                raise InputError(
                    f"a batch of {x.shape[0]} examples cannot be split into {n} equal parts: "
                    f"take a multiple of {n}"
                )
            return jnp.swapaxes(jnp.reshape(x, (-1, n, *x.shape[1:])), 0, 1)

        def body(state: TrainState, xs: tuple[Key, Batch]) -> tuple[TrainState, Metrics]:
            return step.update(xs[0], state, xs[1])

        parts = jax.tree.map(part, batch)
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


def method(init_variables: Callable[[Key, Batch], dict[str, PyTree]], step: Step) -> Method:
    """Close a step into a model that can be trained.

    Args:
        init_variables: (key, batch) -> Flax variables: "params", and collections of mutables.
        step: what one train step does.
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
    return Method(jax.jit(init, compiler_options=run_once_options()), train_step)
