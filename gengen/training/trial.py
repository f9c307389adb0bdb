"""A trial of a training: what it would take, from a few steps. Nothing is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from gengen.compile import default_inner
from gengen.data import AnyData
from gengen.stages import Stage
from gengen.training import distributed
from gengen.training.engine import Engine
from gengen.training.feed import compiled_step, feed, first_batch
from gengen.training.plan import check_batch, check_positive, shares
from gengen.types import Method, PyTree, TrainState, count

DISPATCHES, SECONDS = 5, 5.0  # that are timed, at most, once the program is compiled


class Estimate(NamedTuple):
    """What the training of a model, or of one of its stages, takes.

    Attributes:
        stage: name of the stage; "" of a model of one stage.
        parameters: number of parameters.
        parameter_bytes: of them, in memory.
        state_bytes: of optimiser state, averages and other variables.
        data_bytes: of data that live on the device.
        temporary_bytes: of the train step, as XLA estimates it; None where it does not.
        compile_seconds: to compile the train step.
        step_seconds: of one step.
        steps: train steps.
    """

    stage: str
    parameters: int
    parameter_bytes: int
    state_bytes: int
    data_bytes: int
    temporary_bytes: int | None
    compile_seconds: float
    step_seconds: float
    steps: int

    @property
    def seconds(self) -> float:
        """Of all steps and of compiling, without pictures, validation and checkpoints."""
        return self.compile_seconds + self.steps * self.step_seconds


def trial(
    model: Method | Sequence[Stage],
    data: AnyData,
    *,
    steps: int,
    batch_size: int,
    seed: int = 0,
    start: Callable[[TrainState], TrainState] | None = None,
    engine: Engine = Engine(),  # noqa: B008  frozen
) -> tuple[list[Estimate], PyTree]:
    """Compile and time the first train steps of each stage.

    The arguments are those of `gengen.loop.run`. Later stages begin with earlier ones untrained.

    Returns:
        The estimates, one for each stage; and the initial variables, of stages by name.

    Raises:
        InputError: for settings that cannot work.
    """
    check_positive(steps=steps, batch_size=batch_size, inner=engine.inner)
    first = start or (lambda state: state)
    is_method = isinstance(model, Method)
    stages = [Stage("", model, start=lambda _, s: first(s))] if is_method else list(model)
    plan = shares(steps, [stage.share for stage in stages])
    sizes = [stage.batch_size or batch_size for stage in stages]
    for size in sizes:
        check_batch(engine, data, size)
    inner = min(engine.inner or default_inner(), *plan)
    before: dict[str, TrainState] = {}
    found = []
    for number, (stage, length) in enumerate(zip(stages, plan, strict=True)):
        key = jax.random.fold_in(jax.random.key(seed), number)
        source = stage.data(before, data)
        method = engine.around(stage.method)
        fresh = method.init(key, first_batch(source, sizes[number], seed))
        state = jax.device_get(stage.start(before, fresh))
        before[stage.name] = state
        around = (source, key, state, length, sizes[number], seed, engine, inner)
        found.append(_estimate(stage.name, method, *around))
    variables = {name: state.variables for name, state in before.items()}
    return found, variables.get("", variables)


def _estimate(
    name: str, method: Method, data: AnyData, key: Any, state: TrainState, steps: int,
    batch_size: int, seed: int, engine: Engine, inner: int,
) -> Estimate:  # fmt: skip
    """Return the estimate of one stage, from as many dispatches as it has, or `DISPATCHES` + 1."""
    parameter_bytes = _bytes(state.params)
    dispatches = min(DISPATCHES + 1, max(1, steps // inner))
    with feed(
        data, batch_size=batch_size, seed=seed, steps=range(0, dispatches * inner),
        part=distributed.my_part(batch_size), workers=engine.workers,
    ) as source:  # fmt: skip
        step = compiled_step(method, source, engine, inner)
        read = lambda i: step.place(source.read(i * inner, inner))  # noqa: E731
        now, resident = step.put(state), tuple(map(step.put, source.resident))
        batch, since = read(0), time.monotonic()
        like = jax.eval_shape(lambda *args: args, key, now, batch, *resident)
        now, _ = jax.block_until_ready(step(key, now, batch, *resident))
        compiling = warm = time.monotonic() - since
        since, num = time.monotonic(), 0
        while num < dispatches - 1 and time.monotonic() - since < SECONDS:
            num += 1
            now, _ = jax.block_until_ready(step(key, now, read(num), *resident))
        each = (time.monotonic() - since) / (num * inner) if num else warm
        temporary = step.temporary_bytes(*like)
    return Estimate(
        stage=name,
        parameters=count(state.params),
        parameter_bytes=parameter_bytes,
        state_bytes=_bytes(state) - parameter_bytes,
        data_bytes=_bytes(source.resident),
        temporary_bytes=temporary,
        compile_seconds=compiling,
        step_seconds=each,
        steps=steps,
    )


def _bytes(tree: PyTree) -> int:
    """Return the bytes of the arrays of a tree."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "nbytes")]
    return sum(leaf.nbytes for leaf in leaves)
