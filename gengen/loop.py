"""The training loop: it knows a `Method`, a `Dataset` and a run directory, and nothing of families.

Every step is a function of (seed, step): its batch, its noise. So a run that was stopped and
resumed is, bit for bit, the run that was not.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from gengen import run_dir
from gengen.checkpoint import Checkpoints, restore
from gengen.compile import CompiledStep, compile_step, default_inner
from gengen.data import Dataset, batch_indices, to_batch
from gengen.types import Array, Batch, InputError, Key, Method, Metrics, PyTree, TrainState
from gengen.viz.grid import picture, save_png
from gengen.viz.report import write_report

Preview = Callable[[PyTree, Key], Any]  # (variables, key) -> samples [N, ...]


class Interrupted(RuntimeError):
    """The run was asked to stop; a checkpoint was saved."""


class Diverged(RuntimeError):
    """A loss is NaN or infinite; the last checkpoint was saved before that."""


def run(
    method: Method,
    data: Dataset,
    *,
    out: Path,
    steps: int,
    batch_size: int,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    resume: bool = False,
    preview: Preview | None = None,
    log_every: int | None = None,
    save_every: int | None = None,
    preview_every: int | None = None,
    mode: str = "jit",
    num_devices: int | None = None,
    inner: int | None = None,
) -> TrainState:
    """Train `method` on `data` for `steps` steps, in the run directory `out`.

    Args:
        method: the model.
        data: what to train on; lives on the device.
        out: a new directory, or with `resume` one that holds a run.
        steps: steps in all, those before a resume included.
        batch_size: examples per step, over all devices.
        seed: of the order of the data, the initial parameters and all noise.
        settings: kept in `config.json`, and compared with it on resume.
        resume: go on from the newest valid checkpoint.
        preview: draws samples for a picture; the key is the same each time.
        log_every: steps between lines of `metrics.jsonl`; if None, as before a resume, or 200 lines
            in all.
        save_every: steps between checkpoints; if None, as before, or 10 in all.
        preview_every: steps between pictures; if None, as before, or 8 in all.
        mode: "jit" or "pmap".
        num_devices: of pmap.
        inner: steps per dispatch; 1 on CPU, 20 elsewhere if None. The intervals above are rounded
            up to multiples of it.

    Returns:
        The last state, one copy of it.

    Raises:
        InputError: for settings that cannot work; nothing is written then.
        Interrupted: after SIGINT or SIGTERM, once a checkpoint is saved.
        Diverged: when a logged metric is not finite; that state is not saved.
    """
    out = Path(out)
    _check_positive(steps=steps, batch_size=batch_size, inner=inner, log_every=log_every)
    _check_positive(save_every=save_every, preview_every=preview_every)
    inner = min(inner or default_inner(), steps)

    def train_step(key: Key, state: TrainState, indices: Array, arrays: Batch):
        return method.train_step(key, state, to_batch(arrays, indices))

    compiled = {k: compile_step(train_step, mode, k, num_devices) for k in {1, inner}}
    devices = compiled[1].num_devices
    if batch_size % devices:
        raise InputError(f"batch_size = {batch_size} is no multiple of the {devices} devices")

    init_key, train_key, preview_key = jax.random.split(jax.random.key(seed), 3)
    some = to_batch(data.arrays, batch_indices(len(data), batch_size, seed, 0))
    like = jax.eval_shape(method.init, init_key, some)
    asked = {"log": log_every, "save": save_every, "preview": preview_every}
    due = _intervals(asked, steps, inner, run_dir.read(out).get("every", {}) if resume else {})
    numbers = {"seed": seed, "steps": steps, "batch_size": batch_size, "every": due}
    settings = _settings(settings or {}, data, like, **numbers)
    state = _open(out, settings, resume, like)
    if state is None:
        state = method.init(init_key, some)
    if int(state.step) >= steps:
        _say(f"{out} has {int(state.step)} steps already: nothing to do")
        return state

    def batches(step: int, k: int) -> Array:
        rows = [batch_indices(len(data), batch_size, seed, step + i) for i in range(k)]
        return jax.device_put(rows[0] if k == 1 else np.stack(rows))

    def draw(state: TrainState) -> None:
        if preview:
            _draw(preview(state.variables, preview_key), data, out, int(state.step))

    record = _Record(out, int(state.step), steps, batch_size)
    state = _train(compiled, train_key, state, data.arrays, batches, steps, due, record, draw, out)
    write_report(out)
    return state


def _train(
    compiled: dict[int, CompiledStep],
    key: Key,
    state: TrainState,
    arrays: Batch,
    batches: Callable[[int, int], Array],
    steps: int,
    due: dict[str, int],
    record: _Record,
    draw: Callable[[TrainState], None],
    out: Path,
) -> TrainState:
    """The steps from `state` to `steps`, with what is due between them; one copy of the end."""
    step, inner = int(state.step), max(compiled)
    put, get = compiled[1].put, compiled[1].get
    state, arrays = put(state), put(arrays)
    with record, Checkpoints(out / "checkpoints") as checkpoints, _stop_signals() as stop:
        while step < steps:
            # Chunks lie on multiples of `inner`: a resumed run cuts time as an unbroken one does.
            k = inner if step % inner == 0 and step + inner <= steps else 1
            state, metrics = compiled[k](key, state, batches(step, k), arrays)
            step += k
            record.add(k, metrics)
            stopping = stop.is_set()  # asked once: a signal may come at any line below
            last = step == steps or stopping
            if last or step % due["log"] == 0:
                record.write(step)
            if last or step % due["save"] == 0:
                with record.paused():
                    checkpoints.save(get(state))
            if step == steps or step % due["preview"] == 0:
                with record.paused():
                    draw(get(state))
            if stopping and step < steps:
                raise Interrupted(f"stopped at step {step} of {steps}; checkpoint saved in {out}")
    return get(state)


def _open(out: Path, settings: dict[str, Any], resume: bool, like: TrainState) -> TrainState | None:
    """Make the run directory, or go on with the one there: its newest valid state."""
    if not resume:
        run_dir.create(out, settings)
        return None
    old = run_dir.read(out)
    run_dir.check_resumable(out, old, settings)
    state = restore(out / "checkpoints", like, _say)
    run_dir.write_json(out / "config.json", old | {"steps": max(old["steps"], settings["steps"])})
    _say(f"resuming {out} at step {0 if state is None else int(state.step)}")
    return state


def _settings(
    given: dict[str, Any], data: Dataset, like: TrainState, **numbers: Any
) -> dict[str, Any]:
    """What `config.json` holds."""
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(like.params))
    about = {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "num_examples": len(data),
        "shape": list(data.shape),
    }
    return {
        "schema": run_dir.SCHEMA,
        **given,
        "data": about,
        **numbers,
        "parameters": parameters,
        "versions": run_dir.versions(),
        "machine": run_dir.machine(),
    }


def _draw(drawn: Any, data: Dataset, out: Path, step: int) -> None:
    samples = np.asarray(drawn)
    image = picture(samples, reference=data.arrays.get("x"))
    save_png(out / "samples" / f"step_{step:08d}.png", image, scale=2 if samples.ndim == 4 else 1)


class _Record:
    """Keeps metrics on the device until a line is due; then one transfer, one line, one look."""

    def __init__(self, out: Path, step: int, steps: int, batch_size: int):
        self._log = run_dir.MetricsLog(out / "metrics.jsonl", step)
        self._bar = tqdm(total=steps, initial=step, unit="step", disable=None, dynamic_ncols=True)
        self._batch_size = batch_size
        self._pending: list[tuple[int, Metrics]] = []
        self._seconds, self._since = (0.0, time.monotonic())  # trained since the last line

    def __enter__(self) -> _Record:
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.close()
        self._log.close()

    def add(self, k: int, metrics: Metrics) -> None:
        """Note `k` steps' mean metrics, without waiting for them."""
        self._pending.append((k, metrics))
        self._bar.update(k)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what happens inside out of the throughput."""
        self._seconds += time.monotonic() - self._since
        yield
        self._since = time.monotonic()

    def write(self, step: int) -> None:
        """Write the mean metrics since the last line.

        Raises:
            Diverged: if one of them is not finite.
        """
        taken, metrics = zip(*jax.device_get(self._pending), strict=True)
        self._pending.clear()
        with self.paused():
            rate = sum(taken) * self._batch_size / max(self._seconds, 1e-9)
            self._log.seconds += self._seconds
            self._seconds = 0.0
        mean = {k: float(np.average([m[k] for m in metrics], weights=taken)) for k in metrics[0]}
        row = {"step": step, "seconds": round(self._log.seconds, 3)}
        self._log.write(row | {"examples_per_s": round(rate, 1)} | mean)
        self._bar.set_postfix(
            {k: f"{v:.4g}" for k, v in mean.items()} | {"examples/s": f"{rate:.0f}"}
        )
        bad = ", ".join(f"{k} = {v}" for k, v in mean.items() if not math.isfinite(v))
        if bad:
            raise Diverged(f"at step {step}: {bad}; the checkpoints before it are kept")


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets; a second one stops at once. Main thread only."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(signum: int, frame: Any) -> None:
        stop.set()
        _say("stopping after this step; once more to stop at once")
        signal.signal(signum, before[signal.Signals(signum)])

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _intervals(
    asked: dict[str, int | None], steps: int, inner: int, before: dict[str, int]
) -> dict[str, int]:
    """Steps between events: as asked, else as before a resume, else so many in all."""
    lines = {"log": 200, "save": 10, "preview": 8}
    every = {k: v or before.get(k) or max(1, steps // lines[k]) for k, v in asked.items()}
    return {k: math.ceil(v / inner) * inner for k, v in every.items()}


def _check_positive(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise InputError(f"{name} = {number}, but it must be at least 1")


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)
