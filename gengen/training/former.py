"""Checkpoints of earlier versions: the layout they have, and its conversion to the present one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gengen.steps import Skipping
from gengen.types import PyTree, TrainState


def layout(
    target: TrainState, saved: Callable[[], Any]
) -> tuple[TrainState, Callable[[TrainState], TrainState]]:
    """Return the state to restore a checkpoint into, and what makes a present state of it.

    Steps with a non-finite gradient were once skipped by `optax.apply_if_finite`, around each
    player's optimiser; now around the whole step.

    Args:
        target: state of the present layout.
        saved: returns the tree of the checkpoint: dicts and lists, as Orbax lists it.
    """
    skips = isinstance(target.opt_state, Skipping)
    found = saved()["opt_state"] if skips else {}
    if not skips or {*found} == {*Skipping._fields}:
        return target, lambda state: state
    guarded = _guarded(target.opt_state.inner, found)
    return target.replace(opt_state=guarded), _unguard


def _guarded(own: PyTree, saved: Any) -> PyTree:
    """Return an optimiser state with `ApplyIfFiniteState` wherever the saved one has it."""
    if not isinstance(saved, dict):
        return own
    if set(saved) == set(optax.ApplyIfFiniteState._fields):
        zero = np.zeros((), np.int32)
        return optax.ApplyIfFiniteState(zero, np.zeros((), bool), zero, own)
    if isinstance(own, dict):
        return {name: _guarded(own[name], saved.get(name)) for name in own}
    return own


def _unguard(state: TrainState) -> TrainState:
    is_guard = lambda x: isinstance(x, optax.ApplyIfFiniteState)  # noqa: E731
    leaves = jax.tree.leaves(state.opt_state, is_leaf=is_guard)
    counts = [leaf.notfinite_count for leaf in leaves if is_guard(leaf)]
    inner = jax.tree.map(
        lambda x: x.inner_state if is_guard(x) else x, state.opt_state, is_leaf=is_guard
    )
    return state.replace(opt_state=Skipping(inner, jnp.int32(max(counts, default=0))))
