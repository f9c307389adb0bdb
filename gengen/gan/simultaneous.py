"""Steps in which all players of a game move at once."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from gengen.steps import Step
from gengen.types import Batch, Key, Metrics, TrainState


def simultaneous(players: Mapping[str, Step]) -> Step:
    """Return a step in which all players move from the same state.

    In `sequence` the second player sees the first one's new parameters.

    Args:
        players: the step of each, from `gengen.steps.player`, by its name among the parameters.
    """

    def init(state: TrainState) -> TrainState:
        for step in players.values():
            state = step.init(state)
        return state

    def update(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        new, metrics = state, {}
        keys = jax.random.split(key, len(players))
        for (name, step), step_key in zip(players.items(), keys, strict=True):
            moved, found = step.update(step_key, state.replace(mutables=new.mutables), batch)
            new = new.replace(
                params={**new.params, name: moved.params[name]},
                opt_state={**new.opt_state, name: moved.opt_state[name]},
                mutables=moved.mutables,
            )
            metrics |= found
        return new, metrics

    return Step(init, update)
