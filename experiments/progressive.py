"""Progressive GAN beside the same networks trained at full resolution from the start, on images.

The networks grow 4 → 8 → 16 → 32 pixels in 4 · `--steps` train steps, two fifths of them at 32
pixels, to which images of 28 pixels are padded. "Not growing" has networks of the same size, but
all of them from the first step on; it is trained for about the same time, which is FIXED ·
`--steps` steps at 32 pixels. `stages.png` shows what the same z become at the end of each stage;
`samples.png` both generators' samples. As many samples as there are held-out images (of
Fashion-MNIST the first 2,000) are scored against training images (the first 10,000), in the
features of the data's own classifier; the floor is the same of the held-out ones. The times below
were taken beside other jobs.

    python experiments/progressive.py --results

Expected, as measured (results/progressive_mnist5k.json), seed 0, two CPU cores, 1013 s:

    fid[mnist-v1], growing                                                809.5  (real: 12.59)
    precision[mnist-v1], growing                                           0.87  (real: 0.938)
    recall[mnist-v1], growing                                             0.546  (real: 0.976)
    coverage[mnist-v1], growing                                           0.274  (real: 0.974)
    seconds of training, growing                                          544.4
    fid[mnist-v1], not growing                                            727.5  (real: 12.59)
    precision[mnist-v1], not growing                                      0.874  (real: 0.938)
    recall[mnist-v1], not growing                                         0.662  (real: 0.976)
    coverage[mnist-v1], not growing                                       0.256  (real: 0.974)
    seconds of training, not growing                                      408.9
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from recipe import Args, directory, draw, finish, first, run, scores, titled, train

from gengen.contract import Task, default_config
from gengen.data import load
from gengen.gan import progressive
from gengen.runs.trained import Run
from gengen.training import run_dir

REAL, HELD_OUT = 10_000, 2000  # images at most that samples are scored against
FIXED = 2.2  # steps of the network that does not grow, relative to `--steps`
SHOWN = 12  # images in a row of a picture


@dataclasses.dataclass(frozen=True)
class Settings(Args):
    """Settings of the recipe."""

    data: str = "mnist5k"
    """Or fashion."""
    steps: int = 600
    """Train steps of each of four stages, on average."""


def main(args: Settings) -> None:
    """Train both, draw, score."""
    name, real = f"progressive_{args.data}", load(args.data)
    held_out = first(load(f"{args.data}:test"), HELD_OUT)
    task = Task(tuple(real.shape), steps=4 * args.steps)
    cfg = default_config(progressive.Config, task)
    fixed = dataclasses.replace(cfg, start_resolution=progressive.resolutions(cfg)[-1])
    out, metrics, rows = directory(args, name), {}, []
    ways = {
        "growing": (cfg, out, args.steps),
        "not growing": (fixed, out / "fixed", round(FIXED * args.steps)),
    }
    for way, (own, path, steps) in ways.items():
        trained = train(progressive, own, real, path, dataclasses.replace(args, steps=steps))
        drawn = draw(len(held_out), sampler(trained), args.seed)
        found = scores(drawn, first(real, REAL), held_out, ("fid", "prdc"))
        metrics |= {f"{k}, {way}": v for k, v in found.items() if not k.startswith("d")}
        metrics[f"seconds of training, {way}"] = {"value": seconds(path)}
        rows.append((way, 2.0 * drawn[:SHOWN] / 255 - 1))
        if way == "growing":
            titled(out / "stages.png", stages(trained, args.seed))
    titled(out / "samples.png", rows)
    finish(name, out, metrics, args, ("stages", "samples"))


def sampler(trained: Run) -> Any:
    """Return (key, n) -> samples."""
    return lambda key, n: progressive.sample(trained.cfg, trained.variables, key, n)


def seconds(path: Path) -> float:
    """Return the seconds that a run has trained."""
    return run_dir.read_metrics(path / "metrics.jsonl")[-1]["seconds"]


def stages(trained: Run, seed: int) -> list[tuple[str, np.ndarray]]:
    """Return the images of the same z at the end of each stage, in rows with titles."""
    found = []
    for r in progressive.resolutions(trained.cfg):
        name = progressive.NAME.format(r)
        stage = {name: trained.variables[name]}
        x = progressive.sample(trained.cfg, stage, jax.random.key(seed), SHOWN)
        found.append((f"{r} × {r}", np.asarray(x)))
    return found


if __name__ == "__main__":
    run(main, Settings, __doc__)
