"""DDPM on 4,500 real handwritten digits, in minutes on two CPU cores: this is `make demo`.

It uses the default Config: images folded into 7×7 patches of 16 channels, few and wide, which suits
a CPU; a cosine schedule and v-prediction; Adam at 2e-3 with b2 = 0.99, decaying on a cosine; a
short moving average; 50 evaluations of DDIM with all of its noise.

Expected, as measured (results/ddpm_mnist5k.json), seed 0, two CPU cores, 139 s:

    share the judge gives p ≥ 0.8                                          0.75  (real: 0.916)
    smallest share of a class                                            0.0625  (real: 0.098)
    mean distance to the nearest training digit                           5.206  (real: 4.847)
    fid[mnist-v1]                                                         351.4  (real: 37.6)
    precision[mnist-v1]                                                  0.7383  (real: 0.9453)
    recall[mnist-v1]                                                     0.8984  (real: 0.968)
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np
import tyro
from recipe import free_directory, scores
from record import record

from gengen import loop
from gengen.compile import use_compilation_cache
from gengen.contract import Task
from gengen.data import load, to_uint8
from gengen.diffusion import ddpm
from gengen.metrics import judge, memorisation
from gengen.training.report import write_report
from gengen.types import Array, Key, PyTree
from gengen.viz.grid import grid, save_png

START = time.monotonic()


@dataclasses.dataclass(frozen=True)
class Args:
    """Settings of the recipe."""

    out: Path | None = None
    """Run directory, new. (default: runs/ddpm_mnist5k, or the first free number after it)"""
    steps: int = 1500
    """Train steps."""
    seed: int = 0
    """Of everything."""
    num: int = 256
    """Samples to judge."""
    results: bool = False
    """Write results/ddpm_mnist5k.json."""


def config(steps: int) -> ddpm.Config:
    """Return the default for digits and so many train steps on a CPU."""
    return ddpm.Config.for_task(Task((28, 28, 1), 10, steps))


def main(args: Args) -> None:
    """Fit the judge, train, sample, judge, report."""
    use_compilation_cache()
    train, test = load("mnist5k"), load("mnist5k:test")
    real, held_out = train.arrays["image"], test.arrays["image"]
    referee = judge.fit(real, train.arrays["label"])  # before any model is trained

    cfg = config(args.steps)
    out = args.out or free_directory(Path("runs") / "ddpm_mnist5k")

    def sample(variables: PyTree, key: Key) -> Array:
        return ddpm.sample(cfg, variables, key, 64)

    settings = {"model": "ddpm", "family": "diffusion", "config": dataclasses.asdict(cfg)}
    state = loop.run(
        ddpm.method(cfg), train, out=out, steps=args.steps, batch_size=cfg.batch_size,
        seed=args.seed, settings=settings, preview=sample, preview_every=max(1, args.steps // 5),
    )  # fmt: skip

    keys = jax.random.split(jax.random.key(args.seed + 1), -(-args.num // 64))
    samples = to_uint8(np.concatenate([sample(state.variables, k) for k in keys])[: args.num])
    save_png(out / "samples.png", grid(samples[:64], columns=8), scale=4)
    metrics = measure(referee, samples, held_out, real)
    metrics |= scores(samples, train, test, ("fid", "prdc"))
    metrics["judge's accuracy"] = {"floor": accuracy(referee, held_out, test.arrays["label"])}
    (out / "evaluation.json").write_text(json.dumps({"rows": rows(metrics)}, indent=2))
    report = write_report(out)
    seconds = time.monotonic() - START
    if args.results:
        record("ddpm_mnist5k", out, metrics, seconds)
    show(metrics)
    print(f"\n{seconds:.0f} s in all\ndigits  {out / 'samples.png'}\nreport  {report}")


def measure(referee, samples: np.ndarray, held_out: np.ndarray, real: np.ndarray) -> dict:
    """Each figure of the samples with its floor, the same of real held-out digits."""
    metrics: dict[str, dict[str, float]] = {}
    for column, images in (("value", samples), ("floor", held_out)):
        probs = judge.probabilities(referee, images)
        for name, number in {
            f"share the judge gives p ≥ {judge.CONFIDENT}": judge.confident_share(probs),
            "smallest share of a class": float(judge.class_shares(probs).min()),
            "mean distance to the nearest training digit": float(
                memorisation.nearest_distances(images, real).mean()
            ),
        }.items():
            metrics.setdefault(name, {})[column] = round(number, 4)
    return metrics


def accuracy(referee, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of real held-out digits that the judge reads rightly."""
    return float(np.mean(judge.probabilities(referee, images).argmax(1) == labels))


def rows(metrics: dict) -> list[dict]:
    """For the report."""
    return [{"name": name, **values} for name, values in metrics.items()]


def show(metrics: dict) -> None:
    """Print the figures, samples beside real digits."""
    print(f"\n{'':48}{'samples':>10}{'real, held out':>16}")
    for name, values in metrics.items():
        value, floor = (f"{values[c]:.3f}" if c in values else "" for c in ("value", "floor"))
        print(f"{name:48}{value:>10}{floor:>16}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except (loop.Interrupted, loop.Diverged, ValueError, OSError) as error:
        sys.exit(f"ddpm_mnist5k: {error}")
