"""Models fitted in closed form: a module with `fit(cfg, x, key) -> variables`, and no loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gengen.data import Dataset, to_batch
from gengen.training import run_dir
from gengen.training.checkpoint import Checkpoints
from gengen.training.report import write_report
from gengen.types import InputError, Key, PyTree, TrainState, data_of
from gengen.viz.grid import save_samples


def fit_run(
    module: ModuleType,
    cfg: Any,
    data: Any,
    *,
    out: Path,
    settings: dict[str, Any],
    seed: int,
    preview: Callable[[PyTree, Key], Any] | None = None,
) -> PyTree:
    """Fit a model to all of its data and save the variables in the run directory `out`.

    Args:
        module: its `fit(cfg, x, key)` takes x [N, D], or [N, H, W, C] in [-1, 1], and returns
            variables with a collection "params".
        cfg: its Config.
        data: resident data.
        out: a new directory.
        settings: stored in `config.json`.
        seed: of the key; stored too.
        preview: (variables, key) -> samples [N, ...], or a picture uint8 [H, W, C], for samples/.

    Returns:
        The variables.

    Raises:
        InputError: for streamed data, data that the model refuses, or a directory that is taken.
            No new directory is left behind then.
    """
    if not isinstance(data, Dataset):
        raise InputError(f"{data.name} is streamed, but a closed form needs all examples at once")
    with run_dir.locked(out, resume=False):
        x = data_of(to_batch(data.arrays, np.arange(len(data), dtype=np.int32)))
        variables = jax.tree.map(jnp.asarray, module.fit(cfg, x, jax.random.key(seed)))
        mutables = dict(variables)
        params = mutables.pop("params")
        numbers = {"steps": 1, "parameters": sum(p.size for p in jax.tree.leaves(params))}
        run_dir.create(out, run_dir.settings(settings, data, seed=seed, **numbers))
        state = TrainState(jnp.int32(1), params, opt_state={}, mutables=mutables, ema=None)
        with Checkpoints(out / "checkpoints") as checkpoints:
            checkpoints.save(state)
        if preview is not None:
            drawn = preview(variables, jax.random.key(seed))
            save_samples(drawn, data.arrays.get("x"), out / "samples" / "step_00000001.png")
        write_report(out)
    return variables
