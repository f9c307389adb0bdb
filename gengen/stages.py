"""Models trained in stages: layer by layer, an encoder and then a prior over its codes, growing.

A module of such a model defines `stages(cfg) -> tuple[Stage, ...]` in the place of `method`. Its
`sample(cfg, variables, key, num)` takes the variables of all stages: {stage name: variables}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gengen.data import AnyData, Dataset, to_batch
from gengen.types import Array, InputError, Key, Method, PyTree, TrainState, data_of

CHUNK = 1000  # examples at a time, through a network
Finished = Mapping[str, TrainState]  # the last states of the stages before, by name


def same_data(before: Finished, data: AnyData) -> AnyData:
    """The run's own data."""
    return data


def fresh(before: Finished, state: TrainState) -> TrainState:
    """The state that the method's `init` gave."""
    return state


def carry_over(old: PyTree, new: PyTree) -> PyTree:
    """Return `new` with a copy of each array of `old` that has the same place and shape.

    So a network that grows keeps its weights and its optimiser's moments, bit for bit: of `params`,
    `opt_state` or `ema` of two states. The count of a schedule of the learning rate stays new.
    """
    is_leaf = lambda x: isinstance(x, optax.ScaleByScheduleState)  # noqa: E731
    kept = dict(jax.tree_util.tree_leaves_with_path(old, is_leaf))

    def carried(place: Any, leaf: Any) -> Any:
        before = kept.get(place)
        if is_leaf(leaf) or before is None or jnp.shape(before) != jnp.shape(leaf):
            return leaf
        return jnp.array(before, leaf.dtype)

    return jax.tree_util.tree_map_with_path(carried, new, is_leaf=is_leaf)


def continued(before: Finished, state: TrainState) -> TrainState:
    """Return the state with all that it shares with the last state of the stage before.

    That is parameters, optimiser state and average; `step` and `mutables` stay. Of the first stage
    it is the state that the method's `init` gave.
    """
    if not before:
        return state
    old = before[list(before)[-1]]
    return state.replace(
        params=carry_over(old.params, state.params),
        opt_state=carry_over(old.opt_state, state.opt_state),
        ema=carry_over(old.ema, state.ema),
    )


def resident(data: AnyData) -> Dataset:
    """Data that are in memory, all at once.

    Raises:
        InputError: for a stream.
    """
    if not isinstance(data, Dataset):
        raise InputError(f"{data.name} is streamed, but what a stage codes is kept in memory")
    return data


def coded(data: AnyData, encode: Callable[[Array], Array], name: str) -> Dataset:
    """A data set of what a stage before makes of each example, with its label and caption.

    Args:
        data: resident, N examples.
        encode: x [B, ...] as in a batch → codes [B, D], or maps of them [B, h, w, D].
        name: of the new data set.
    """
    data, parts = resident(data), []
    for start in range(0, len(data), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(data)), dtype=np.int32)
        parts.append(np.asarray(encode(data_of(to_batch(data.arrays, rows))), np.float32))
    kept = {key: data.arrays[key] for key in ("label", "caption") if key in data.arrays}
    return Dataset(name, {"x": np.concatenate(parts), **kept}, data.classes)


class Stage(NamedTuple):
    """One stage of training.

    Attributes:
        name: a word that begins with a letter, for logs and folders: "layer1", "prior".
        method: what is trained.
        data: (before, the run's data) -> what this stage trains on, such as the codes that the
            stage before gives.
        start: (before, a fresh state) -> the first state, such as one that begins with the weights
            learnt before. No array of `before` may stand in it twice.
        share: of the run's steps, in proportion to the other stages' shares.
        batch_size: examples per step; None: as many as the run's.
        preview: (variables of the stages up to this one, by name; key) -> samples or a picture, as
            the run's own preview; None: no pictures but in the last stage, which has the run's.
        replaces: whether the networks of the stage before go on in this one, as where they grow.
            Their parameters are not counted twice then.
    """

    name: str
    method: Method
    data: Callable[[Finished, AnyData], AnyData] = same_data
    start: Callable[[Finished, TrainState], TrainState] = fresh
    share: float = 1.0
    batch_size: int | None = None
    preview: Callable[[PyTree, Key], Any] | None = None
    replaces: bool = False


def check_stages(stages: Sequence[Stage]) -> None:
    """Refuse what cannot be trained one after the other.

    Raises:
        InputError: for no stage, a name that is no word, two of one name, or a share of nothing.
    """
    names = [stage.name for stage in stages]
    if not names or len({*names}) < len(names) or not all(name.isidentifier() for name in names):
        raise InputError(f"stages {names}: there is at least one, each named by a word of its own")
    if not all(stage.share > 0 for stage in stages):
        raise InputError(f"shares {[s.share for s in stages]}: each stage takes some of the steps")
