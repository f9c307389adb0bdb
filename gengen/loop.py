"""The training loop: it knows a `Method`, a data set and a run directory, and nothing of families.

Every step is a function of (seed, step): its batch, its noise. So a run that was stopped and
resumed is, bit for bit, the run that was not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gengen.compile import CompiledStep, compile_step, default_inner, devices_for
from gengen.data import AnyData, Dataset, normalise, to_batch
from gengen.stages import Stage, check_stages
from gengen.steps import accumulate, skip_nonfinite
from gengen.training import distributed, run_dir
from gengen.training.checkpoint import Checkpoints, newest_valid, restore
from gengen.training.feed import Feed, feed
from gengen.training.precision import DTYPES, compute_in
from gengen.training.record import Diverged, Profiler, Record, say
from gengen.training.report import write_report
from gengen.training.signals import Interrupted, stop_signals
from gengen.training.validation import NO_VALIDATION, Best, Validation
from gengen.types import Batch, InputError, Key, Method, PyTree, TrainState
from gengen.viz.grid import picture, save_png

Preview = Callable[[PyTree, Key], Any]  # (variables, key) -> samples [N, ...]


@dataclass(frozen=True)
class Engine:
    """How the steps are run. The first three are part of what is trained: a resume keeps them."""

    accumulate: int = 1  # parts of a batch whose gradients are taken one after the other
    dtype: str = "float32"  # that networks compute in; or "bfloat16"
    on_nan: str = "stop"  # or "skip": leave out steps whose gradient is not finite
    mode: str = "jit"  # or "pmap"
    num_devices: int | None = None  # see `compile_step`
    inner: int | None = None  # steps per dispatch; 1 on CPU, 20 elsewhere if None
    workers: int = 0  # processes that read streamed data ahead; 0: threads do
    tensorboard: bool = False  # event files besides metrics.jsonl
    profile: int = 0  # trace so many steps once the program is warm

    def __post_init__(self) -> None:
        """Refuse what cannot be, naming the field."""
        if self.on_nan not in ("stop", "skip"):
            raise InputError(f'on_nan = {self.on_nan!r}, but it is "stop" or "skip"')
        if self.dtype not in DTYPES:
            raise InputError(f"dtype = {self.dtype!r}, but it is {' or '.join(DTYPES)}")
        for name, least in (("accumulate", 1), ("workers", 0), ("profile", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} = {getattr(self, name)}, but it is at least {least}")

    def around(self, method: Method) -> Method:
        """`method` as it is trained by this engine."""
        method = accumulate(compute_in(method, self.dtype), self.accumulate)
        return skip_nonfinite(method) if self.on_nan == "skip" else method


class _Run(NamedTuple):
    """What all stages of a run have in common."""

    out: Path
    data: AnyData
    seed: int
    batch_size: int
    total: int  # steps of all stages
    every: dict[str, int]
    inner: int
    engine: Engine
    draw: Callable[[dict[str, TrainState], int], np.ndarray | None]  # uint8 [H, W, C]
    validation: Validation


def run(
    model: Method | Sequence[Stage],
    data: AnyData,
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
    validation: Validation = NO_VALIDATION,
    engine: Engine = Engine(),  # noqa: B008  frozen
) -> Any:
    """Train `model` on `data` for `steps` steps, in the run directory `out`.

    Args:
        model: a method; or stages, trained one after the other, that share the steps.
        data: what to train on.
        out: a new directory, or with `resume` one that holds a run.
        steps: steps in all, those before a resume included.
        batch_size: examples per step, over all devices and processes.
        seed: of the order of the data, the initial parameters and all noise.
        settings: kept in `config.json`, and compared with it on resume.
        resume: go on from the newest valid checkpoint.
        preview: draws samples for a picture; the key is the same each time. Of stages: the last
            one's, given the variables of all by name.
        log_every: steps between lines of `metrics.jsonl`; if None, as before a resume, or 200 lines
            in all. This and the next two are rounded up to multiples of `engine.inner`.
        save_every: steps between checkpoints; if None, as before, or 10 in all.
        preview_every: steps between pictures; if None, as before, or 8 in all.
        validation: scores the state on other data, keeps the best, may end the training early.
        engine: how the steps are run.

    Returns:
        The last `TrainState`, one copy of it, or with `validation` the best one; of stages, a dict
        of them by name.

    Raises:
        InputError: for settings that cannot work; nothing is written then.
        Interrupted: after SIGINT or SIGTERM, once a checkpoint is saved.
        Diverged: when a logged metric is not finite; that state is not saved.
    """
    out = Path(out)
    asked = {"log": log_every, "save": save_every, "preview": preview_every}
    _check_positive(steps=steps, batch_size=batch_size, inner=engine.inner)
    _check_positive(**{f"{name}_every": number for name, number in asked.items()})
    if isinstance(model, Method):
        stages = [Stage("", model)]
    else:
        check_stages(stages := list(model))
        if validation.every:
            raise InputError("validation is of models of one stage: this has several")
    plan = _shares(steps, [stage.share for stage in stages])
    inner = min(engine.inner or default_inner(), *plan)
    num_devices = len(devices_for(engine.mode, engine.num_devices))
    if batch_size % (num_devices * engine.accumulate):
        parts = f", each taking {engine.accumulate} parts" if engine.accumulate > 1 else ""
        raise InputError(
            f"batch_size = {batch_size} is no multiple of the {num_devices} devices{parts}"
        )
    with run_dir.locked(out, resume):
        old = run_dir.read(out) if resume else {}
        due = _intervals(asked, steps, inner, old.get("every", {}))
        numbers = {"seed": seed, "steps": steps, "batch_size": batch_size, "every": due}
        kept = {name: getattr(engine, name) for name in ("accumulate", "dtype", "on_nan")}
        new = run_dir.settings(settings or {}, data, engine=kept, **numbers)
        _open(out, old, new)
        # Where the key of a preview, and of a run that has but one stage, always came from.
        preview_key = jax.random.split(jax.random.key(seed), 3)[2]

        def draw(states: dict[str, TrainState], step: int) -> np.ndarray | None:
            if preview and len(states) == len(stages):
                variables = {name: state.variables for name, state in states.items()}
                drawn = preview(variables.get("", variables), preview_key)
                if distributed.is_main():
                    return _save_picture(drawn, data, out, step)
            return None

        this = _Run(out, data, seed, batch_size, steps, due, inner, engine, draw, validation)
        before: dict[str, TrainState] = {}
        for number, (stage, length) in enumerate(zip(stages, plan, strict=True)):
            before[stage.name] = _run_stage(this, number, stage, before, sum(plan[:number]), length)
        if distributed.is_main():
            write_report(out)
    return before.get("", before)


def _run_stage(
    run: _Run, number: int, stage: Stage, before: dict[str, TrainState], offset: int, length: int
) -> TrainState:
    """One stage: from its newest valid checkpoint, if any, to its last step."""
    key = jax.random.key(run.seed)
    init_key, train_key, _ = jax.random.split(jax.random.fold_in(key, number) if number else key, 3)
    data = stage.data(before, run.data)
    method, folder = run.engine.around(stage.method), run.out / "checkpoints" / stage.name
    some = _first_batch(data, run.batch_size, run.seed)
    like = jax.eval_shape(method.init, init_key, some)
    _note_parameters(run.out, stage.name, like)
    state = restore(folder, like, say)
    if state is None:
        state = stage.start(before, method.init(init_key, some))
    start = int(state.step)
    label = f"{run.out}, {stage.name}" if stage.name else str(run.out)
    best = Best(run.out, run.validation, train_key, start)
    if start >= length or best.is_over:
        why = f", {best.words}" if best.is_over else ""
        say(f"{label} has {start} steps already{why}: nothing to do")
        return best.state(state, say)
    if start:
        say(f"resuming {label} at step {start}")
    steps, part = range(start, length), distributed.my_part(run.batch_size)
    with feed(
        data,
        batch_size=run.batch_size,
        seed=run.seed,
        steps=steps,
        part=part,
        workers=run.engine.workers,
    ) as source:
        end = _train(
            run, stage.name, before, method, train_key, state, source, offset, length, best
        )
    return best.state(end, say)


def _compiled(method: Method, source: Feed, run: _Run) -> dict[int, CompiledStep]:
    """The step, by how many of it one dispatch runs."""

    def train_step(key: Key, state: TrainState, read: PyTree, *resident: PyTree):
        return method.train_step(key, state, source.batch(read, *resident))

    engine = run.engine
    return {k: compile_step(train_step, engine.mode, k, engine.num_devices) for k in {1, run.inner}}


def _train(
    run: _Run,
    name: str,
    before: dict[str, TrainState],
    method: Method,
    key: Key,
    state: TrainState,
    source: Feed,
    offset: int,
    length: int,
    best: Best,
) -> TrainState:
    """The steps from `state` to `length`, with what is due between them; one copy of the end.

    `best` may end them earlier. The run's own count, in logs and pictures, is `offset` ahead of
    the stage's.
    """
    step, inner, every = int(state.step), run.inner, run.every
    compiled = _compiled(method, source, run)
    put, get = compiled[1].put, compiled[1].get
    state, resident = put(state), tuple(map(put, source.resident))
    profiler = Profiler(run.out / "profile", step + 3 * inner, run.engine.profile)
    place = (run.out, offset + step, run.total, run.batch_size)
    record = Record(*place, run.engine.tensorboard, method.warn)
    folder = run.out / "checkpoints" / name
    with record, best, Checkpoints(folder) as checkpoints, stop_signals() as stop:
        while step < length and not best.is_over:
            # Chunks lie on multiples of `inner`: a resumed run cuts time as an unbroken one does.
            k = inner if step % inner == 0 and step + inner <= length else 1
            profiler.step(step)
            with record.waiting():
                batch = compiled[k].place(source.read(step, k))
            state, metrics = compiled[k](key, state, batch, *resident)
            step += k
            record.add(k, metrics)
            stopping = distributed.asked_to_stop(step, stop)  # asked once: it may come at any line
            better = False
            if best.is_due(step, k):
                with record.paused():
                    better = best.score(get(state))
            end = step == length or best.is_over
            last = end or stopping
            if last or step % every["log"] == 0:
                _write(record, offset + step, folder)
            if last or better or step % every["save"] == 0:
                with record.paused():
                    checkpoints.save(get(state))
            if end or step % every["preview"] == 0:
                with record.paused():
                    record.picture(run.draw({**before, name: get(state)}, offset + step), step)
            if stopping and not best.is_over and offset + step < run.total:
                raise Interrupted(
                    f"stopped at step {offset + step} of {run.total}; checkpoint saved in {run.out}"
                )
        profiler.close()
    if best.is_over:
        say(f"{run.out} ends at step {step}: {best.words}")
    return get(state)


def _write(record: Record, step: int, folder: Path) -> None:
    try:
        record.write(step)
    except Diverged as end:
        last = newest_valid(folder)
        kept = f"the last good checkpoint is {last}" if last else "there is no checkpoint before"
        cure = "a smaller learning rate may help; --on-nan skip leaves out single bad steps"
        raise Diverged(f"training diverged {end}; {kept}; {cure}") from None


def _open(out: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Make the run directory, or see that the one there may go on."""
    if not old:
        if distributed.is_main():
            run_dir.create(out, new)
    else:
        run_dir.check_resumable(out, old, new)
        if distributed.is_main():
            numbers = {"steps": max(old["steps"], new["steps"])}
            run_dir.write_json(out / "config.json", old | numbers)
    distributed.wait_for_all("open")


def _first_batch(data: AnyData, batch_size: int, seed: int) -> Batch:
    """The whole first batch: `init` reads shapes from it, and some models their first scales."""
    rows = data.rows(batch_size, seed, 0)
    return to_batch(data.arrays, rows) if isinstance(data, Dataset) else normalise(data.read(rows))


def _note_parameters(out: Path, stage: str, like: TrainState) -> None:
    """Keep the number of parameters in `config.json`; of stages, their sum as they come."""
    if not distributed.is_main():
        return
    number = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(like.params))
    settings = run_dir.read(out)
    by_stage = settings.get("parameters_of", {}) | {stage: number}
    now = {"parameters": sum(by_stage.values())} | ({"parameters_of": by_stage} if stage else {})
    if {k: settings.get(k) for k in now} != now:
        run_dir.write_json(out / "config.json", settings | now)


def _save_picture(drawn: Any, data: AnyData, out: Path, step: int) -> np.ndarray:
    samples = np.asarray(drawn)
    reference = data.arrays.get("x") if isinstance(data, Dataset) else None
    image = picture(samples, reference=reference)
    save_png(out / "samples" / f"step_{step:08d}.png", image, scale=2 if samples.ndim == 4 else 1)
    return image


def _shares(steps: int, shares: list[float]) -> list[int]:
    """Split the steps among stages; every stage has at least one."""
    if steps < len(shares):
        raise InputError(f"steps = {steps}, but each of the {len(shares)} stages needs one")
    ends = np.rint(np.cumsum(shares) / sum(shares) * (steps - len(shares))).astype(int)
    return [int(n) + 1 for n in np.diff(ends, prepend=0)]


def _intervals(
    asked: dict[str, int | None], steps: int, inner: int, before: dict[str, int]
) -> dict[str, int]:
    """Steps between events: as asked, else as before a resume, else so many in all."""
    number = {"log": 200, "save": 10, "preview": 8}
    chosen = {k: v or before.get(k) or max(1, steps // number[k]) for k, v in asked.items()}
    return {k: math.ceil(v / inner) * inner for k, v in chosen.items()}


def _check_positive(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise InputError(f"{name} = {number}, but it must be at least 1")
