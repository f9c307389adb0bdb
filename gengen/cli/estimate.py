"""Report of `gengen train --dry-run`: Config, parameters, memory and time."""

from __future__ import annotations

import dataclasses

from gengen.runs.trained import Run
from gengen.training.progress import megabytes
from gengen.training.trial import Estimate
from gengen.viz.curves import duration


def estimated(run: Run) -> str:
    """Return the text for a dry run: Config, parameters, memory and time."""
    data, found = run.settings["data"], run.settings["estimates"]
    shape = "×".join(map(str, data["shape"]))
    lines = [
        f"{run.name} on {data['name']}: {data['num_examples']:,} examples of {shape}",
        "Config",
        *(f"  {name} = {value!r}" for name, value in dataclasses.asdict(run.cfg).items()),
    ]
    for each in found:
        lines += [*([f"stage {each.stage}"] if each.stage else []), *_stage(each)]
    if len(found) > 1:
        lines.append(f"all stages  about {duration(sum(each.seconds for each in found))}")
    return "\n".join([*lines, "Pictures, validation and checkpoints come on top of the time."])


def _stage(each: Estimate) -> list[str]:
    """Return the lines for a stage."""
    state = (each.parameter_bytes, each.state_bytes, each.data_bytes)
    parameters, rest, data = map(megabytes, state)
    temporary = each.temporary_bytes
    total = megabytes(sum(state) + (temporary or 0))
    unknown = "unknown" if temporary is None else f"{megabytes(temporary)} (XLA's estimate)"
    return [
        f"  parameters  {each.parameters:,}",
        f"  memory      {total}: parameters {parameters}, optimiser and averages {rest}, "
        f"data {data}, temporaries {unknown}",
        f"  time        {duration(each.compile_seconds)} to compile, "
        f"{1000 * each.step_seconds:.3g} ms a step; "
        f"{each.steps:,} steps: about {duration(each.seconds)}",
    ]
