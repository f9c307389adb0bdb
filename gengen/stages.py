"""Models trained in stages: layer by layer, an encoder and then a prior over its codes, growing.

A module of such a model defines `stages(cfg) -> tuple[Stage, ...]` in the place of `method`. Its
`sample(cfg, variables, key, num)` takes the variables of all stages: {stage name: variables}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from gengen.data import Dataset
from gengen.types import Method, TrainState

Finished = Mapping[str, TrainState]  # the last states of the stages before, by name


def same_data(before: Finished, data: Dataset) -> Dataset:
    """The run's own data."""
    return data


def fresh(before: Finished, state: TrainState) -> TrainState:
    """The state that the method's `init` gave."""
    return state


class Stage(NamedTuple):
    """One stage of training.

    Attributes:
        name: a word, for logs and folders: "layer1", "prior".
        method: what is trained.
        data: (before, the run's data) -> what this stage trains on, such as the codes that the
            stage before gives.
        start: (before, a fresh state) -> the first state, such as one that begins with the weights
            learnt before. No array of `before` may stand in it twice.
        share: of the run's steps, in proportion to the other stages' shares.
    """

    name: str
    method: Method
    data: Callable[[Finished, Dataset], Dataset] = same_data
    start: Callable[[Finished, TrainState], TrainState] = fresh
    share: float = 1.0
