"""gengen's k-means, mixture and PPCA beside scikit-learn's: seconds of a fit, in paired turns.

The data are a million points in the plane, from eight Gaussians (`--dims` and `--clusters` change
that), float32 for all. Each pair starts from the same values and takes the same number of steps,
with a tolerance of 0, so that both do the same work:

    k-means   `kmeans.fit(start=...)`   KMeans(algorithm="lloyd", init=..., n_init=1)
    mixture   `gmm.fit(start=...)`      GaussianMixture(means_init=..., precisions_init=...)
    ppca      `ppca.fit`                PCA(...).fit: closed forms

The ways of a turn run one after the other, in every other turn the other way round. The first fit
of gengen compiles, and does not count. The median ratio counts; the target is ≥ 1 for each. Both
results are compared too: inertia, and nats per point.

    python -m benchmarks.density --out results/benchmarks/density.json
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from gengen.density import gmm, kmeans, ppca
from gengen.distributions import Mixture
from gengen.training import run_dir

KEY = jax.random.key(0)
Way = Callable[[], float]  # fits, and returns what is compared


@dataclass(frozen=True)
class Args:
    """Settings of the benchmark."""

    num: int = 1_000_000
    """Points."""
    dims: int = 2
    """Dimensions of a point."""
    clusters: int = 8
    """Clusters, and components of the mixture."""
    steps: int = 20
    """Steps of Lloyd's algorithm, and of EM."""
    turns: int = 5
    """Paired measurements."""
    out: Path | None = None
    """JSON file for the result."""


def points(args: Args) -> tuple[np.ndarray, np.ndarray]:
    """Return points [N, D] and initial centres [K, D], float32."""
    rng = np.random.default_rng(0)
    means = 3 * rng.normal(size=(args.clusters, args.dims))
    which = rng.integers(args.clusters, size=args.num)
    x = (means[which] + rng.normal(size=(args.num, args.dims))).astype(np.float32)
    return x, x[: args.clusters].copy()


def of_kmeans(args: Args, x: np.ndarray, start: np.ndarray) -> tuple[Way, Way]:
    """Return gengen's and scikit-learn's fit, which return the inertia."""
    from sklearn.cluster import KMeans

    cfg = kmeans.Config(shape=(args.dims,), num_clusters=args.clusters, max_steps=args.steps,
                        tolerance=0.0)  # fmt: skip
    device = jnp.asarray(x)

    def ours() -> float:
        return float(kmeans.inertia(cfg, kmeans.fit(cfg, device, KEY, start=start), device))

    def theirs() -> float:
        settings: Any = dict(init=start, n_init=1, max_iter=args.steps, tol=0)
        model: Any = KMeans(args.clusters, algorithm="lloyd", **settings).fit(x)
        return float(model.inertia_)

    return ours, theirs


def of_mixture(args: Args, x: np.ndarray, start: np.ndarray) -> tuple[Way, Way]:
    """Return gengen's and scikit-learn's fit, which return nats per point."""
    from sklearn.mixture import GaussianMixture

    cfg = gmm.Config(shape=(args.dims,), num_components=args.clusters, max_steps=args.steps,
                     tolerance=0.0)  # fmt: skip
    eye = np.eye(args.dims, dtype=np.float32)
    weights = np.full(args.clusters, 1 / args.clusters, np.float32)
    mixture = Mixture(
        jnp.log(weights), jnp.asarray(start), jnp.broadcast_to(eye, (args.clusters, *eye.shape))
    )
    device = jnp.asarray(x)

    def ours() -> float:
        return float(gmm.log_prob(cfg, gmm.fit(cfg, device, KEY, start=mixture), device).mean())

    def theirs() -> float:
        settings: Any = dict(
            max_iter=args.steps, tol=0, weights_init=weights, means_init=start,
            precisions_init=np.stack([eye] * args.clusters),
        )  # fmt: skip
        model = GaussianMixture(args.clusters, **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged, which tol=0 excludes
            return float(model.fit(x).score(x))

    return ours, theirs


def of_ppca(args: Args, x: np.ndarray, start: np.ndarray) -> tuple[Way, Way]:
    """Return gengen's and scikit-learn's fit, which return nats per point."""
    from sklearn.decomposition import PCA

    cfg = ppca.Config(shape=(args.dims,), latent_dim=1, ddof=1)

    def ours() -> float:
        return float(ppca.log_prob(cfg, ppca.fit(cfg, x, KEY), x).mean())

    def theirs() -> float:
        return float(PCA(1).fit(x).score(x))

    return ours, theirs


def paired(ways: tuple[Way, Way], turns: int) -> dict[str, Any]:
    """Return seconds of both ways, and the ratios of scikit-learn's to gengen's."""
    names = ("gengen", "scikit-learn")
    values = [way() for way in ways]  # compiles
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(turns):
        for name, way in list(zip(names, ways, strict=True))[:: 1 if turn % 2 == 0 else -1]:
            begin = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - begin)
    ratios = np.array(times["scikit-learn"]) / np.array(times["gengen"])
    return {
        "seconds, median": {k: round(float(np.median(v)), 4) for k, v in times.items()},
        "ratio, median": round(float(np.median(ratios)), 3),
        "ratio, all": ratios.round(3).tolist(),
        "results": dict(zip(names, values, strict=True)),
    }


def main(args: Args) -> None:
    """Measure all three, print, and write the file."""
    x, start = points(args)
    found: dict[str, dict[str, Any]] = {}
    for name, make in {"k-means": of_kmeans, "mixture": of_mixture, "ppca": of_ppca}.items():
        found[name] = paired(make(args, x, start), args.turns)
        print(name, *(f"  {k}: {v}" for k, v in found[name].items()), sep="\n")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        settings = {k: v for k, v in asdict(args).items() if k != "out"}
        about = {"versions": run_dir.versions(), "machine": run_dir.machine(), "args": settings}
        run_dir.write_json(args.out, {"benchmark": "density", "found": found, **about})


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
