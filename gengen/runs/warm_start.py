"""Warm start: the first state of a new run has the weights of another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gengen.errors import InputError
from gengen.runs import discover
from gengen.runs.trained import Run, load
from gengen.training.record import say
from gengen.types import PyTree, TrainState


def read(path: str | Path, module: ModuleType, net: Any = None) -> Run:
    """Return the run that the weights come from.

    Args:
        path: run directory, or a file made by `gengen export`.
        module: of the model, which must be the same.
        net: the network of both runs, if not the Config's.

    Raises:
        InputError: if there is no such run, it is of another model, or the model is trained in
            stages or fitted at once.
    """
    name = discover.name_of(module)
    if not hasattr(module, "method"):
        how = "in stages" if hasattr(module, "stages") else "at once"
        raise InputError(
            f"--init: {name} is trained {how}; a warm start is for models of one stage"
        )
    run = load(path, None if discover.is_builtin(module) else module, net, say)
    if run.name != name:
        raise InputError(f"--init: {path} is of {run.name}, not of {name}")
    return run


def begin_with(run: Run) -> Callable[[TrainState], TrainState]:
    """Return what gives a fresh state the weights of `run`: (state) -> state.

    They are those that sampling takes: the EMA, if there is one. They become the parameters and, if
    the state has one, its EMA. Optimiser state and step stay fresh. Raises `InputError` if a leaf
    is missing or has another shape.
    """

    def begin(state: TrainState) -> TrainState:
        params, ema = (_replaced(state.params, run.variables["params"], run) for _ in range(2))
        learnt = {name: value for name, value in run.variables.items() if name != "params"}
        mutables = _replaced(state.mutables, learnt, run)
        step = run.settings.get("steps")
        say(f"starting from the weights of {run.path}, trained for {step} steps")
        ema = None if state.ema is None else ema
        return state.replace(params=params, mutables=mutables, ema=ema)

    return begin


def _replaced(fresh: PyTree, learnt: PyTree, run: Run) -> PyTree:
    """Return a tree like `fresh` with copies of the leaves of `learnt`, which are of `run`.

    Raises:
        InputError: naming a leaf that one of the two lacks, or of another shape.
    """
    here, there = _by_name(fresh), _by_name(learnt)
    for name in sorted(here.keys() | there.keys()):
        a, b = (list(np.shape(x[name])) if name in x else None for x in (there, here))
        if a != b:
            words = [f"is {shape}" if shape is not None else "is missing" for shape in (a, b)]
            raise InputError(
                f"--init: {name} {words[0]} in {run.path}, but {words[1]} in this Config: use data "
                "and fields of the same shapes"
            )
    leaves = [jnp.array(there[name], leaf.dtype, copy=True) for name, leaf in here.items()]
    return jax.tree.unflatten(jax.tree.structure(fresh), leaves)


def _by_name(tree: PyTree) -> dict[str, Any]:
    """Return the leaves of a tree by their paths, "Dense_0/kernel"."""
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in found}
