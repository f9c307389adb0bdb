"""The Fréchet step at 2048 features: ours against SciPy's matrix square root, as pytorch-fid does.

Paired runs: each pair times ours with the reference's factor kept (what an evaluation pays for each
further model), ours from nothing, and sqrtm, one after the other, so that a machine whose speed
drifts does not mislead. The target is a median ratio of at least 5 with the factor kept.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro

from gengen import run_dir
from gengen.metrics import fid, statistics


@dataclass(frozen=True)
class Args:
    """Settings of the benchmark."""

    dims: int = 2048
    """Features."""
    num: int = 10_000
    """Examples of each set."""
    pairs: int = 3
    """Paired measurements."""
    out: Path | None = None
    """JSON file for the result."""


def with_sqrtm(a: statistics.Statistics, b: statistics.Statistics) -> float:
    """The usual way: Tr of the complex square root of the product."""
    from scipy.linalg import sqrtm

    root = np.asarray(sqrtm(a.cov @ b.cov))
    gap = a.mean - b.mean
    return float(gap @ gap + np.trace(a.cov) + np.trace(b.cov) - 2 * np.trace(root).real)


def again(s: statistics.Statistics) -> statistics.Statistics:
    """The same with no factor kept."""
    return statistics.Statistics(s.mean, s.cov, s.n)


def features(rng: np.random.Generator, args: Args) -> np.ndarray:
    """Correlated, with a spectrum that falls by a power law, as Inception's does."""
    scales = np.arange(1, args.dims + 1) ** -0.75
    mix = np.linalg.qr(rng.normal(size=(args.dims, args.dims)))[0]
    return rng.normal(size=(args.num, args.dims)) * scales @ mix


def main(args: Args) -> None:
    rng = np.random.default_rng(0)
    real, fake = (again(statistics.of_features(features(rng, args))) for _ in range(2))
    kept = again(real)
    fid.distance(kept, fake)  # makes the factor
    ways = {
        "ours, factor kept": lambda: fid.distance(kept, again(fake)),
        "ours, from nothing": lambda: fid.distance(again(real), again(fake)),
        "sqrtm": lambda: with_sqrtm(real, fake),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    values: dict[str, float] = {}
    for _ in range(args.pairs):
        for name, way in ways.items():
            begin = time.perf_counter()
            values[name] = way()
            times[name].append(time.perf_counter() - begin)
    ratios = {
        name: np.array(times["sqrtm"]) / np.array(times[name]) for name in ways if name != "sqrtm"
    }
    result = {
        "benchmark": "frechet",
        "seconds, median": {k: round(float(np.median(v)), 3) for k, v in times.items()},
        "sqrtm / ours, median": {k: round(float(np.median(v)), 2) for k, v in ratios.items()},
        "sqrtm / ours, all": {k: v.round(2).tolist() for k, v in ratios.items()},
        "values": values,
        **{k: v for k, v in asdict(args).items() if k != "out"},
        "machine": run_dir.machine(),
        "versions": run_dir.versions(),
    }
    print(json.dumps(result, indent=2))
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
