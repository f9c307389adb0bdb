"""Models fitted in closed form: a module with `fit(cfg, x, key) -> variables`, and no loop."""

from __future__ import annotations

import json
import time
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
from gengen.training.progress import say
from gengen.training.report import write_report
from gengen.training.signals import interruptible
from gengen.types import InputError, Key, PyTree, TrainState, data_of
from gengen.viz.grid import save_samples

CHUNK = 1000  # examples at a time, of which the likelihood is computed


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
        say(f"fitting {settings.get('model', 'a model')} to {data.name} ({len(data):,} examples)")
        key, since = jax.random.key(seed), time.monotonic()
        variables = interruptible(lambda: jax.tree.map(jnp.asarray, module.fit(cfg, x, key)))
        seconds = time.monotonic() - since
        mutables = dict(variables)
        params = mutables.pop("params")
        numbers = {"steps": 1, "parameters": sum(p.size for p in jax.tree.leaves(params))}
        run_dir.create(out, run_dir.settings(settings, data, seed=seed, **numbers))
        row = {"step": 1, "seconds": round(seconds, 3), **_measured(module, cfg, variables, x)}
        (out / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        state = TrainState(jnp.int32(1), params, opt_state={}, mutables=mutables, ema=None)
        with Checkpoints(out / "checkpoints") as checkpoints:
            checkpoints.save(state)
        if preview is not None:
            drawn = preview(variables, key)
            save_samples(drawn, data.arrays.get("x"), out / "samples" / "step_00000001.png")
        write_report(out)
    return variables


def _measured(module: ModuleType, cfg: Any, variables: PyTree, x: Any) -> dict[str, float]:
    """Return the mean log-likelihood of the data, nats per example, if the model has one."""
    if not hasattr(module, "log_prob"):
        return {}
    chunk, parts = min(CHUNK, len(x)), []
    for start in range(0, len(x), chunk):
        rows = np.arange(start, start + chunk) % len(x)  # as many each time: one program
        log_p = module.log_prob(cfg, variables, x[rows])
        parts.append(np.asarray(log_p, np.float64)[: len(x) - start])
    return {"log_likelihood": float(np.concatenate(parts).mean())}
