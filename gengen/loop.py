"""The training loop: it knows a `Method`, a data set and a run directory, and nothing of families.

Every step is a function of (seed, step): its batch, its noise. So a run that was stopped and
resumed is, bit for bit, the run that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gengen.compile import CompiledStep, default_inner
from gengen.data import AnyData, Dataset
from gengen.stages import Stage, check_stages
from gengen.training import distributed, run_dir
from gengen.training.actions import Now, actions, perform
from gengen.training.checkpoint import Checkpoints, restore, steps_in
from gengen.training.engine import Engine as Engine
from gengen.training.feed import Feed, compiled_step, feed, first_batch
from gengen.training.plan import check_batch, check_positive, intervals, shares
from gengen.training.progress import megabytes, say, say_start
from gengen.training.record import Diverged as Diverged
from gengen.training.record import Profiler, Record
from gengen.training.report import write_report
from gengen.training.signals import Interrupted, stop_signals
from gengen.training.tracking import OnMetrics, Tracker, Trackers
from gengen.training.validation import NO_VALIDATION, Best, Validation
from gengen.types import InputError, Key, Method, PyTree, TrainState, count
from gengen.viz.curves import duration
from gengen.viz.grid import save_samples

# (variables, key) -> samples [N, ...], or a finished picture, uint8 [H, W, C].
Preview = Callable[[PyTree, Key], Any]


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
    preview: Preview | None
    validation: Validation
    claim: run_dir.Claim
    trackers: Trackers


class _Part(NamedTuple):
    """A stage within a run: its place, and what came before."""

    stage: Stage
    number: int
    offset: int  # steps of the stages before
    length: int
    before: dict[str, TrainState]
    is_last: bool
    batch_size: int

    @property
    def name(self) -> str:
        return self.stage.name


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
    start: Callable[[TrainState], TrainState] | None = None,
    preview: Preview | None = None,
    log_every: int | None = None,
    save_every: int | None = None,
    preview_every: int | None = None,
    validation: Validation = NO_VALIDATION,
    engine: Engine = Engine(),  # noqa: B008  frozen
    tracker: str | Tracker | Sequence[str | Tracker] | None = None,
    on_metrics: OnMetrics | None = None,
) -> Any:
    """Train `model` on `data` for `steps` steps, in the run directory `out`.

    Args:
        model: a method; or stages, trained one after the other, that share the steps.
        data: what to train on.
        out: a new directory, or with `resume` one that holds a run.
        steps: steps in all, those before a resume included.
        batch_size: examples per step, over all devices and processes; of stages that do not say.
        seed: of the order of the data, the initial parameters and all noise.
        settings: kept in `config.json`, and compared with it on resume.
        resume: go on from the newest valid checkpoint.
        start: (fresh state) -> the first state of a new run, such as one with weights learnt
            before; for models of one stage. Not called on resume.
        preview: samples for a picture, or draws one itself; the key is the same each time. Of
            stages: the last one's, given the variables of all by name; earlier ones have their own,
            if any, and none if this is None. Pictures take at most a tenth of the training time,
            the first and the last one aside: others are skipped.
        log_every: steps between lines of `metrics.jsonl`; if None, as before a resume, or 200 lines
            in all. This and the next two are rounded up to multiples of `engine.inner`.
        save_every: steps between checkpoints; if None, as before, or 10 in all.
        preview_every: steps between pictures; if None, as before, or 8 in all.
        validation: scores the state on other data, keeps the best, may end the training early.
        engine: how the steps are run.
        tracker: where metrics and pictures go besides `out`: "tensorboard", "wandb", "mlflow", an
            object with the methods of `Tracker`, or several.
        on_metrics: (step, mean metrics since the last line) -> None, called with each line of
            `metrics.jsonl`, in every process. If it raises, a checkpoint is saved, the run ends,
            and the exception is passed on; the run can be resumed.

    Returns:
        The last `TrainState`, one copy of it, or with `validation` the best one; of stages, a dict
        of them by name.

    Raises:
        InputError: for settings that cannot work. Nothing is left behind then, nor after any other
            error before the first train step.
        Interrupted: after SIGINT or SIGTERM, once a checkpoint is saved.
        Diverged: when a logged metric is not finite; that state is not saved.
    """
    out = Path(out)
    asked = {"log": log_every, "save": save_every, "preview": preview_every}
    check_positive(steps=steps, batch_size=batch_size, inner=engine.inner)
    check_positive(**{f"{name}_every": number for name, number in asked.items()})
    if isinstance(model, Method):
        first = start or (lambda state: state)
        stages = [Stage("", model, start=lambda _, state: first(state))]
    else:
        check_stages(stages := list(model))
        if start:
            raise InputError("start is for models of one stage: this has several")
        if validation.every:
            raise InputError("validation is of models of one stage: this has several")
    shares(steps, [stage.share for stage in stages])  # refuses what it cannot split
    sizes = [stage.batch_size or batch_size for stage in stages]
    for size in sizes:
        check_batch(engine, data, size)
    named = [tracker] if isinstance(tracker, str | Tracker) else list(tracker or ())
    trackers = Trackers(["tensorboard"] * engine.tensorboard + named, out, on_metrics)
    with run_dir.locked(out, resume) as claim, trackers:
        old = run_dir.read(out) if resume else {}
        plan = _plan(out, stages, steps, old)
        inner = min(engine.inner or default_inner(), *plan)
        every = intervals(asked, steps, inner, old.get("every", {}))
        numbers = {"seed": seed, "steps": steps, "batch_size": batch_size, "every": every}
        numbers |= {"stage_steps": plan} if len(plan) > 1 else {}
        _open(out, old, run_dir.settings(settings or {}, data, engine=engine.kept(), **numbers))
        this = _Run(
            out,
            data,
            seed,
            batch_size,
            steps,
            every,
            inner,
            engine,
            preview,
            validation,
            claim,
            trackers,
        )
        before: dict[str, TrainState] = {}
        with _reported(out):
            for number, (stage, length) in enumerate(zip(stages, plan, strict=True)):
                place = (number, sum(plan[:number]), length, dict(before))
                part = _Part(stage, *place, number == len(stages) - 1, sizes[number])
                before[stage.name] = _run_stage(this, part)
    return before.get("", before)


def _plan(out: Path, stages: Sequence[Stage], steps: int, old: dict[str, Any]) -> list[int]:
    """Return the train steps of each stage.

    A resumed run has those that it began with. If it is to go on for longer, the last stage that
    has begun and those after it share what is left. Finished ones stay as those after know them.
    """
    parts = [stage.share for stage in stages]
    plan = shares(steps, parts)
    if not old:
        return plan
    before = old.get("stage_steps") or shares(old["steps"], parts)
    if steps <= old["steps"]:
        return before if steps == old["steps"] else list(map(min, before, plan))
    folders = [out / "checkpoints" / stage.name for stage in stages]
    begun = max((n for n, folder in enumerate(folders) if steps_in(folder)), default=0)
    done = before[: distributed.from_main(begun)]
    return done + shares(steps - sum(done), parts[len(done) :])


@contextmanager
def _reported(out: Path) -> Iterator[None]:
    """Write the report at the end, also of a run that diverged."""
    try:
        yield
    except Diverged:
        if distributed.is_main():
            write_report(out)
        raise
    if distributed.is_main():
        write_report(out)


def _run_stage(run: _Run, part: _Part) -> TrainState:
    """Train one stage, from its newest valid checkpoint, if any, to its last step."""
    stage, number, length = part.stage, part.number, part.length
    key = jax.random.key(run.seed)
    init_key, train_key, _ = jax.random.split(jax.random.fold_in(key, number) if number else key, 3)
    data = stage.data(part.before, run.data)
    method, folder = run.engine.around(stage.method), run.out / "checkpoints" / stage.name
    some = first_batch(data, part.batch_size, run.seed)
    like = jax.eval_shape(method.init, init_key, some)
    _note_parameters(run.out, part, like)
    state = restore(folder, like, say)
    if state is None:
        state = stage.start(part.before, method.init(init_key, some))
    start = int(state.step)
    label = f"{run.out}, {stage.name}" if stage.name else str(run.out)
    best = Best(run.out, run.validation, train_key, start)
    if start >= length or best.is_over:
        why = f", {best.words}" if best.is_over else ""
        say(f"{label} has {start} steps already{why}: nothing to do")
        return best.state(state, say)
    if start:
        say(f"resuming {label} at step {start}")
    say_start(run_dir.read(run.out), run.out, stage.name, part.batch_size)
    with feed(
        data,
        batch_size=part.batch_size,
        seed=run.seed,
        steps=range(start, length),
        part=distributed.my_part(part.batch_size),
        workers=run.engine.workers,
    ) as source:
        say(f"compiling the train step{f' of {stage.name}' if stage.name else ''} ...")
        end = _train(run, part, method, train_key, state, source, best)
    return best.state(end, say)


def _train(
    run: _Run,
    part: _Part,
    method: Method,
    key: Key,
    state: TrainState,
    source: Feed,
    best: Best,
) -> TrainState:
    """Train from `state` to the end of the stage, and do what is due between the steps.

    Validation may end it earlier.

    Returns:
        One copy of the last state.
    """
    step, inner = int(state.step), run.inner
    compiled = {k: compiled_step(method, source, run.engine, k) for k in {1, inner}}
    put, get = compiled[1].put, compiled[1].get
    state, resident = put(state), tuple(map(put, source.resident))
    profiler = Profiler(run.out / "profile", step + 3 * inner, run.engine.profile)
    place = (run.out, part.offset + step, run.total, part.batch_size)
    run.trackers.open(part.offset + step, run_dir.read(run.out))
    record = Record(*place, run.trackers, method.warn)
    folder = run.out / "checkpoints" / part.name
    program: tuple[CompiledStep, tuple[PyTree, ...]] | None = None  # and what it is called with
    with record, best, Checkpoints(folder) as checkpoints, stop_signals() as stop:
        todo = actions(run.every, record, best, checkpoints, _drawer(run, part), run.out, stop)
        while step < part.length and not best.is_over:
            # Chunks lie on multiples of `inner`: a resumed run cuts time as an unbroken one does.
            k = inner if step % inner == 0 and step + inner <= part.length else 1
            profiler.step(step)
            with record.waiting():
                batch = compiled[k].place(source.read(step, k))
            args = (key, state, batch, *resident)
            program = program or (compiled[k], jax.eval_shape(lambda *args: args, *args))
            state, metrics = compiled[k](*args)
            run.claim.keep()
            step += k
            record.add(k, metrics)
            stopping = distributed.asked_to_stop(step, stop)  # asked once: it may come at any line
            now = Now(step, part.offset + step, k, state, get, step == part.length, stopping)
            perform(todo, now)
            if record.error:
                raise record.error
            if now.is_stopping and not best.is_over and now.shown < run.total:
                raise Interrupted(
                    f"stopped at step {now.shown} of {run.total}; checkpoint saved in {run.out}"
                )
        profiler.close()
    if best.is_over:
        say(f"{run.out} ends at step {step}: {best.words}")
    end = get(state)
    if part.name and program:
        _say_stage(part, end, record, *program)
    if part.is_last:
        say(f"done: {part.offset + step:,} steps in {duration(record.total)}")
    return end


def _say_stage(
    part: _Part, end: TrainState, record: Record, compiled: CompiledStep, args: Sequence[PyTree]
) -> None:
    """Print what a stage took: one line."""
    seconds, temporary = record.step_seconds, compiled.temporary_bytes(*args)
    words = [f"{count(end.params):,} parameters", f"batch size {part.batch_size}"]
    words += [f"{part.length:,} steps, {1000 * seconds:.3g} ms each"] if seconds else []
    kept = sum(leaf.nbytes for leaf in jax.tree.leaves(end))
    words.append(f"state {megabytes(kept)}")
    words += [] if temporary is None else [f"temporaries {megabytes(temporary)}"]
    say(f"stage {part.name}: {', '.join(words)}")


def _drawer(run: _Run, part: _Part) -> Callable[[TrainState, int], np.ndarray | None] | None:
    """Return what draws and saves a picture of the last stage, uint8 [H, W, C]; None: no pictures.

    In processes that do not write, the picture is None.
    """
    preview = run.preview
    if preview is not None and not part.is_last:
        preview = part.stage.preview
    if preview is None:
        return None
    # Where the key of a preview, and of a run that has but one stage, always came from.
    key = jax.random.split(jax.random.key(run.seed), 3)[2]

    def draw(state: TrainState, step: int) -> np.ndarray | None:
        states = {**part.before, part.name: state}
        variables = {name: state.variables for name, state in states.items()}
        drawn = preview(variables.get("", variables), key)
        if not distributed.is_main():
            return None
        reference = run.data.arrays.get("x") if isinstance(run.data, Dataset) else None
        return save_samples(drawn, reference, run.out / "samples" / f"step_{step:08d}.png")

    return draw


def _open(out: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Make the run directory, or see that the one there may go on."""
    if not old:
        if distributed.is_main():
            run_dir.create(out, new)
    else:
        run_dir.check_resumable(out, old, new)
        if distributed.is_main():
            longer = new["steps"] >= old["steps"]
            numbers = {k: new[k] for k in ("steps", "stage_steps") if k in new and longer}
            run_dir.write_json(out / "config.json", old | numbers)
    distributed.wait_for_all("open")


def _note_parameters(out: Path, part: _Part, like: TrainState) -> None:
    """Keep the number of parameters in `config.json`; of stages, their sum as they come."""
    if not distributed.is_main():
        return
    settings, stage = run_dir.read(out), part.name
    by_stage = settings.get("parameters_of", {}) | {stage: count(like.params)}
    if part.stage.replaces:
        by_stage.pop(list(part.before)[-1], None)
    now = {"parameters": sum(by_stage.values())} | ({"parameters_of": by_stage} if stage else {})
    if {k: settings.get(k) for k in now} != now:
        run_dir.write_json(out / "config.json", settings | now)
