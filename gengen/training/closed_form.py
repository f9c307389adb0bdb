"""Models that are fitted at once, without a loop: a module with `fit(x, cfg) -> params`."""

from __future__ import annotations

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
from gengen.types import InputError, PyTree, TrainState, data_of


def fit_run(
    module: ModuleType, cfg: Any, data: Any, *, out: Path, settings: dict[str, Any], seed: int
) -> PyTree:
    """Fit `module` to all of `data`, and keep what it found in the run directory `out`.

    Args:
        module: whose `fit(x, cfg)` takes x [N, D], or [N, H, W, C] in [-1, 1], and gives a pytree.
        cfg: its Config.
        data: resident data.
        out: a new directory.
        settings: kept in `config.json`.
        seed: kept too.

    Raises:
        InputError: for streamed data, or a directory that is taken.
    """
    if not isinstance(data, Dataset):
        raise InputError(f"{data.name} is streamed, but a closed form needs all examples at once")
    with run_dir.locked(out, resume=False):
        x = data_of(to_batch(data.arrays, np.arange(len(data), dtype=np.int32)))
        params = jax.tree.map(jnp.asarray, module.fit(x, cfg))
        numbers = {"steps": 1, "parameters": sum(p.size for p in jax.tree.leaves(params))}
        run_dir.create(out, run_dir.settings(settings, data, seed=seed, **numbers))
        state = TrainState(jnp.int32(1), params, opt_state={}, mutables={}, ema=None)
        with Checkpoints(out / "checkpoints") as checkpoints:
            checkpoints.save(state)
        write_report(out)
    return params
