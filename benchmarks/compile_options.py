"""Do the CPU compile options of gengen.xla still win? Paired runs of the demo's train step.

Prints the median of the ratios, pair by pair, of the step's time without the options and with them,
so that a machine whose speed drifts does not mislead. Below 1 they should go.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass

import jax
import numpy as np
import tyro

from gengen.data import batch_indices, load, to_batch
from gengen.diffusion import ddpm
from gengen.training import run_dir
from gengen.xla import compiler_options


@dataclass(frozen=True)
class Args:
    """Settings of the benchmark."""

    pairs: int = 15
    """Paired measurements."""
    steps: int = 3
    """Train steps in each."""
    batch_size: int = 64
    """Examples a step."""


def main(args: Args) -> None:
    data = load("mnist5k")
    cfg = ddpm.Config(schedule="cosine", prediction="v", patch=4)
    method = ddpm.method(cfg)
    batch = to_batch(data.arrays, batch_indices(len(data), args.batch_size, 0, 0))
    key, state = jax.random.key(0), method.init(jax.random.key(0), batch)
    lowered = jax.jit(method.train_step).lower(key, state, batch)
    compiled = {
        "without": lowered.compile(),
        "with": lowered.compile(compiler_options=compiler_options()),
    }

    def seconds(name: str) -> float:
        begin = time.perf_counter()
        for _ in range(args.steps):
            jax.block_until_ready(compiled[name](key, state, batch))
        return (time.perf_counter() - begin) / args.steps

    for name in compiled:
        seconds(name)
    times = {name: [] for name in compiled}
    for _ in range(args.pairs):
        for name in compiled:
            times[name].append(seconds(name))
    ratios = np.array(times["without"]) / np.array(times["with"])
    print(
        json.dumps(
            {
                "options": compiler_options(),
                "median ms without": round(1e3 * float(np.median(times["without"])), 1),
                "median ms with": round(1e3 * float(np.median(times["with"])), 1),
                "ratio, median": round(float(np.median(ratios)), 2),
                "ratio, quartiles": np.quantile(ratios, [0.25, 0.75]).round(2).tolist(),
                **asdict(args),
                "machine": run_dir.machine(),
                "versions": run_dir.versions(),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
