"""What the two costly parts of FID take, beside the reference tools, in paired runs.

Features: InceptionV3's 2048 of images, by gengen, torch-fidelity and pytorch-fid, with the same
made-up weights; each is given its own default batch. Fréchet: the distance of 2048-dimensional
statistics, with the reference's factor kept (what an evaluation pays for each further model) and
from nothing, beside SciPy's matrix square root, which pytorch-fid uses.

The ways of a pair run one after the other, so that a machine whose speed drifts does not mislead;
what counts is the median ratio. The targets: features ≥ 1, the factor kept ≥ 5.

    python -m benchmarks.metrics --out results/benchmarks/metrics.json     # needs the extra compare
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from gengen.metrics import fid, statistics
from gengen.training import run_dir

Ways = Mapping[str, Callable[[], Any]]


@dataclass(frozen=True)
class Args:
    """Settings of the benchmark."""

    images: int = 128
    """Of 32×32 pixels, through the network."""
    dims: int = 2048
    """Features of the statistics."""
    num: int = 10_000
    """Examples of each of the statistics."""
    pairs: int = 5
    """Paired measurements."""
    out: Path | None = None
    """JSON file for the result."""


def paired(ways: Ways, pairs: int, ours: str) -> dict[str, Any]:
    """Median seconds of each way, and the ratios of the others to ours."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(pairs):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - begin)
    ratios = {k: np.array(v) / np.array(times[ours]) for k, v in times.items() if k != ours}
    return {
        "seconds, median": {k: round(float(np.median(v)), 3) for k, v in times.items()},
        f"times those of {ours}, median": {
            k: round(float(np.median(v)), 2) for k, v in ratios.items()
        },
        f"times those of {ours}, all": {k: v.round(2).tolist() for k, v in ratios.items()},
    }


def of_features(args: Args) -> dict[str, Any]:
    """Images to 2048 features."""
    from gengen.nn.inception import features, from_torch, torch_shapes
    from tests.compare import inception_references as references
    from tests.nn.random_weights import random_images, random_state_dict

    weights = random_state_dict(torch_shapes(), seed=2)
    images = random_images((args.images, 32, 32, 3), seed=3)
    variables = jax.device_put(from_torch(weights))
    fidelity = references.TorchFidelity(weights, ("2048",))
    pytorch = references.PytorchFID(weights, ("2048",))

    def in_batches(net: Callable[[np.ndarray], dict], batch: int) -> np.ndarray:
        starts = range(0, len(images), batch)
        return np.concatenate([net(images[i : i + batch])["2048"] for i in starts])

    def ours(protocol: str) -> np.ndarray:
        return np.asarray(features(variables, images, protocol=protocol)["2048"])

    ways: Ways = {
        "gengen": lambda: ours("torch-fidelity"),
        "torch-fidelity": lambda: in_batches(fidelity, 64),
        "gengen, pytorch-fid's resize": lambda: ours("pytorch-fid"),
        "pytorch-fid": lambda: in_batches(pytorch, 50),
    }
    values = {name: way() for name, way in ways.items()}  # compiles ours
    names = list(ways)
    gaps = [
        float(np.abs(values[a] - values[b]).max())
        for a, b in zip(names[::2], names[1::2], strict=True)
    ]
    found = paired(ways, args.pairs, "gengen")
    rates = {k: round(args.images / s, 2) for k, s in found["seconds, median"].items()}
    return found | {"images/s": rates, "largest difference": max(gaps)}


def of_frechet(args: Args) -> dict[str, Any]:
    """Statistics to a distance."""
    rng = np.random.default_rng(0)
    real, fake = (again(statistics.of_features(spectrum(rng, args))) for _ in range(2))
    kept = again(real)
    ways: Ways = {
        "gengen, factor kept": lambda: fid.distance(kept, again(fake)),
        "gengen, from nothing": lambda: fid.distance(again(real), again(fake)),
        "sqrtm": lambda: with_sqrtm(real, fake),
    }
    values = {name: way() for name, way in ways.items()}  # makes the factor
    found = paired(ways, args.pairs, "gengen, factor kept")
    return found | {"values": values}


def with_sqrtm(a: statistics.Statistics, b: statistics.Statistics) -> float:
    """The usual way: Tr of the complex square root of the product."""
    from scipy.linalg import sqrtm

    root = np.asarray(sqrtm(a.cov @ b.cov))
    gap = a.mean - b.mean
    return float(gap @ gap + np.trace(a.cov) + np.trace(b.cov) - 2 * np.trace(root).real)


def again(s: statistics.Statistics) -> statistics.Statistics:
    """The same with no factor kept."""
    return statistics.Statistics(s.mean, s.cov, s.n)


def spectrum(rng: np.random.Generator, args: Args) -> np.ndarray:
    """Correlated features, with a spectrum that falls by a power law, as Inception's does."""
    scales = np.arange(1, args.dims + 1) ** -0.75
    mix = np.linalg.qr(rng.normal(size=(args.dims, args.dims)))[0]
    return rng.normal(size=(args.num, args.dims)) * scales @ mix


def main(args: Args) -> None:
    found = {"features": of_features(args), "frechet": of_frechet(args)}
    for part, result in found.items():
        print(part, *(f"  {k}: {v}" for k, v in result.items()), sep="\n")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        settings = {k: v for k, v in asdict(args).items() if k != "out"}
        about = {"versions": run_dir.versions(), "machine": run_dir.machine(), "args": settings}
        run_dir.write_json(args.out, {"benchmark": "metrics", "found": found, **about})


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
