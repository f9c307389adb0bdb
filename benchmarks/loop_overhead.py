"""What the loop costs: steps/s through `loop.run`, logging on, against the bare compiled step's.

Both train the same model on the same data, batch and noise, in turns; the ratio is of medians. The
bare step gets its batch from the same index array, without a log, a checkpoint or a picture.

    python benchmarks/loop_overhead.py --out results/benchmarks/loop_overhead.json
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import tyro

from gengen import loop, run_dir
from gengen.compile import compile_step
from gengen.data import Dataset, load, to_batch
from gengen.diffusion import ddpm
from gengen.gan import wgan
from gengen.types import Method

# with the steps that are measured each turn, about ten seconds of them
MODELS = {"ddpm": (ddpm, ddpm.Config(), 40), "wgan": (wgan, wgan.Config(m=16), 100)}


@dataclass
class Args:
    """What to measure."""

    data: str = "mnist5k"
    turns: int = 5
    out: Path | None = None
    """Write the figures as JSON."""


def bare(method: Method, data: Dataset, batch_size: int, steps: int) -> float:
    """Steps per second of the compiled step alone."""

    def step(key: Any, state: Any, rows: Any, arrays: Any):
        return method.train_step(key, state, to_batch(arrays, rows))

    key, compiled = jax.random.key(0), compile_step(step)
    state = method.init(key, to_batch(data.arrays, data.rows(batch_size, 0, 0)))
    arrays = jax.device_put(data.arrays)
    rows = [jax.device_put(data.rows(batch_size, 0, i)) for i in range(2 * steps)]
    for i in range(steps):
        state, _ = compiled(key, state, rows[i], arrays)
    jax.block_until_ready(state)
    since = time.perf_counter()
    for i in range(steps, 2 * steps):
        state, _ = compiled(key, state, rows[i], arrays)
    jax.block_until_ready(state)
    return steps / (time.perf_counter() - since)


def through_the_loop(method: Method, data: Dataset, batch_size: int, steps: int) -> float:
    """Steps per second of the second half of a run, from its own log: 10 lines, no checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        options: dict[str, Any] = {"log_every": max(1, steps // 10), "save_every": 10**9}
        loop.run(method, data, out=out, steps=2 * steps, batch_size=batch_size, **options)
        rows = run_dir.read_metrics(out / "metrics.jsonl")
    warm, end = next(row for row in rows if row["step"] >= steps), rows[-1]
    return (end["step"] - warm["step"]) / (end["seconds"] - warm["seconds"])


def measure(args: Args) -> dict[str, Any]:
    """The ratio for each model."""
    data, found = load(args.data), {}
    assert isinstance(data, Dataset)
    for name, (module, cfg, steps) in MODELS.items():
        method, pairs = module.method(cfg), []
        for turn in range(args.turns):
            order = (bare, through_the_loop) if turn % 2 else (through_the_loop, bare)
            rates = {f: f(method, data, cfg.batch_size, steps) for f in order}
            pairs.append((rates[bare], rates[through_the_loop]))
        a, b = (statistics.median(rates) for rates in zip(*pairs, strict=True))
        ratio = statistics.median(loop / bare for bare, loop in pairs)
        found[name] = {"bare": round(a, 2), "loop": round(b, 2), "ratio": round(ratio, 4)}
        print(f"{name:5} bare {a:7.2f} steps/s   loop {b:7.2f} steps/s   ratio {ratio:.3f}")
    return found


def main(args: Args) -> None:
    found = measure(args)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        settings = {k: str(v) for k, v in asdict(args).items() if k != "out"}
        about = {"versions": run_dir.versions(), "machine": run_dir.machine(), "args": settings}
        run_dir.write_json(args.out, {"benchmark": "loop_overhead", "found": found, **about})


if __name__ == "__main__":
    main(tyro.cli(Args))
