"""What the loop costs: steps/s through `loop.run`, logging on, against the bare compiled step's.

Both train the same model on the same data and batches, in turns of a few seconds within one run, so
that a machine whose speed drifts does not mislead; the ratio is that of the median rates, with the
quartiles of the turns' beside it. The bare step gets its batch from the same index array, without a
log, a picture or a progress bar.

    python benchmarks/loop_overhead.py --out results/benchmarks/loop_overhead.json
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from gengen import loop
from gengen.compile import compile_step
from gengen.data import Dataset, load, to_batch
from gengen.diffusion import ddpm
from gengen.gan import wgan
from gengen.training import run_dir
from gengen.types import Method

# with the steps of a turn: some seconds
MODELS = {"ddpm": (ddpm, ddpm.Config(), 8), "wgan": (wgan, wgan.Config(critic_batch_size=16), 24)}


@dataclass
class Args:
    """What to measure."""

    data: str = "mnist5k"
    turns: int = 40
    out: Path | None = None
    """Write the figures as JSON."""


class Turns:
    """A preview that runs as many bare steps as the loop has run since the last one."""

    def __init__(self, method: Method, data: Dataset, batch_size: int, steps: int):
        def step(key: Any, state: Any, rows: Any, arrays: Any):
            return method.train_step(key, state, to_batch(arrays, rows))

        self._key, self._step = jax.random.key(0), compile_step(step)
        self._arrays = jax.device_put(data.arrays)
        self._rows = [jax.device_put(data.rows(batch_size, 0, i)) for i in range(steps)]
        self._state = method.init(self._key, to_batch(data.arrays, data.rows(batch_size, 0, 0)))
        self._since = 0.0
        self.loop: list[float] = []
        self.bare: list[float] = []

    def __call__(self, variables: Any, key: Any) -> np.ndarray:
        jax.block_until_ready(variables)
        begin = time.perf_counter()
        self.loop.append(begin - self._since)
        for rows in self._rows:
            self._state, _ = self._step(self._key, self._state, rows, self._arrays)
        jax.block_until_ready(self._state)
        self._since = time.perf_counter()
        self.bare.append(self._since - begin)
        return np.zeros((1, 8, 8, 1), np.float32)


def measure(args: Args) -> dict[str, Any]:
    """The ratio for each model."""
    data, found = load(args.data), {}
    for name, (module, cfg, steps) in MODELS.items():
        method = module.method(cfg)
        turns = Turns(method, data, cfg.batch_size, steps)
        with tempfile.TemporaryDirectory() as folder:
            loop.run(
                method, data, out=Path(folder) / "run", steps=steps * (args.turns + 1),
                batch_size=cfg.batch_size, preview=turns, preview_every=steps,
                log_every=max(1, steps // 4), save_every=10**9,
            )  # fmt: skip
        pairs = np.array([turns.bare, turns.loop])[:, 1:]  # the first turn compiles
        bare, through = steps / np.median(pairs, axis=1)
        ratio, spread = through / bare, np.quantile(pairs[0] / pairs[1], (0.25, 0.75))
        rates = {"bare": round(bare, 2), "loop": round(through, 2), "ratio": round(ratio, 4)}
        found[name] = rates | {"quartiles of turns": spread.round(3).tolist()}
        print(f"{name:5} steps/s: bare {bare:.2f}   loop {through:.2f}   ratio {ratio:.3f}")
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
