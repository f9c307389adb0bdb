"""Samplers and inverse methods where the truth is known: the exact score of a Gaussian mixture.

No network, so nothing but the method's own error is left. Data: three Gaussians in the plane,
weights 0.2, 0.5, 0.3, deviation 0.3; the cosine schedule, T = 1000.

Samplers, by evaluations of the denoiser: the sliced Wasserstein distance of 50,000 samples from as
many of the mixture; the floor is that of two sets of the mixture. Inverse methods: y = x₁ + x₂/2
+ 0.4 n was seen to be 0.8; the error of the mean, of the covariance (Frobenius), and the distance
from draws of the exact posterior, which is a mixture too; of 20,000 samples in 250 steps, methods
with particles in runs of so many. ζ of DPS is the best of four, by that distance: a favour to it.

The tables are in docs/DIFFUSION.md, with the pictures beside them.

Expected, as measured (results/exact_mixture.json), seed 0, two CPU cores, 120 s:

    distance, ancestral, σ² = β, 1000 evaluations                        0.0127  (real: 0.0045)
    distance, ancestral, σ² = β̃, 1000 evaluations                       0.0134  (real: 0.0045)
    distance, DDIM, η = 1, 5 evaluations                                 0.1749  (real: 0.0045)
    distance, DDIM, η = 1, 10 evaluations                                0.1022  (real: 0.0045)
    distance, DDIM, η = 1, 20 evaluations                                0.0619  (real: 0.0045)
    distance, DDIM, η = 1, 50 evaluations                                0.0321  (real: 0.0045)
    distance, DDIM, η = 1, 250 evaluations                               0.0178  (real: 0.0045)
    distance, DDIM, η = 1, 1000 evaluations                              0.0134  (real: 0.0045)
    distance, DDIM, 5 evaluations                                        0.1383  (real: 0.0045)
    distance, DDIM, 10 evaluations                                       0.0724  (real: 0.0045)
    distance, DDIM, 20 evaluations                                       0.0374  (real: 0.0045)
    distance, DDIM, 50 evaluations                                       0.0156  (real: 0.0045)
    distance, DDIM, 250 evaluations                                      0.0058  (real: 0.0045)
    distance, DDIM, 1000 evaluations                                      0.005  (real: 0.0045)
    distance, multistep, 5 evaluations                                   0.0968  (real: 0.0045)
    distance, multistep, 10 evaluations                                   0.041  (real: 0.0045)
    distance, multistep, 20 evaluations                                  0.0102  (real: 0.0045)
    distance, multistep, 50 evaluations                                  0.0049  (real: 0.0045)
    distance, multistep, 250 evaluations                                 0.0049  (real: 0.0045)
    distance, multistep, 1000 evaluations                                0.0049  (real: 0.0045)
    error of the posterior's mean, replacement                           0.5881  (real: 0.0065)
    error of the posterior's covariance, replacement                     0.7204  (real: 0.0096)
    error of the posterior's distance, replacement                       0.4816  (real: 0.0052)
    error of the posterior's mean, DPS, ζ = 0.1                          0.1413  (real: 0.0065)
    error of the posterior's covariance, DPS, ζ = 0.1                    0.8705  (real: 0.0096)
    error of the posterior's distance, DPS, ζ = 0.1                      0.3243  (real: 0.0052)
    error of the posterior's mean, ΠGDM                                  0.6765  (real: 0.0065)
    error of the posterior's covariance, ΠGDM                            0.0993  (real: 0.0096)
    error of the posterior's distance, ΠGDM                               0.425  (real: 0.0052)
    error of the posterior's mean, twisted, 16                           0.0276  (real: 0.0065)
    error of the posterior's covariance, twisted, 16                     0.0337  (real: 0.0096)
    error of the posterior's distance, twisted, 16                       0.0141  (real: 0.0052)
    error of the posterior's mean, twisted, 256                          0.0218  (real: 0.0065)
    error of the posterior's covariance, twisted, 256                    0.0304  (real: 0.0096)
    error of the posterior's distance, twisted, 256                       0.023  (real: 0.0052)
    error of the posterior's mean, twisted, 4,096                        0.0143  (real: 0.0065)
    error of the posterior's covariance, twisted, 4,096                  0.0174  (real: 0.0096)
    error of the posterior's distance, twisted, 4,096                    0.0176  (real: 0.0052)
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from recipe import free_directory, run
from record import ROOT, write

from gengen.diffusion import exact, inverse, operators, samplers
from gengen.diffusion.schedule import cosine_schedule
from gengen.training import run_dir

NAME = "exact_mixture"
MIXTURE = exact.mixture(
    np.array([0.2, 0.5, 0.3]), np.array([[-2.0, 0.0], [1.0, 1.5], [1.0, -1.5]]), 0.3
)
A, Y, NOISE = np.array([[1.0, 0.5]]), np.array([0.8]), 0.4
ZETAS = (0.1, 0.2, 0.5, 1.0)
PARTICLES = (16, 256, 4096)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the recipe."""

    steps: int = 1000
    """T; evaluations go up to it."""
    samples: int = 50_000
    """Of each sampler."""
    draws: int = 20_000
    """Of each inverse method."""
    seed: int = 0
    """Of everything."""
    out: Path | None = None
    """Folder of the pictures; runs/exact_mixture if none."""
    results: bool = False
    """Write results/exact_mixture.json and the pictures of docs/DIFFUSION.md."""


def main(args: Settings) -> None:
    """Both tables, both pictures."""
    start, out = time.monotonic(), args.out or free_directory(Path("runs") / NAME)
    out.mkdir(parents=True, exist_ok=True)
    curves, floor = of_samplers(args)
    rows, draws = of_inverse_methods(args)
    table = {"samplers": curves, "inverse": rows, "floor": floor}
    print("\n".join([*markdown(table), "", *inverse_markdown(table)]))
    draw_curves(out / "samplers.png", curves, floor)
    draw_posteriors(out / "posteriors.png", draws)
    if args.results:
        settings = {
            "model": "exact denoiser", "data": {"name": "a mixture of three Gaussians"},
            "seed": args.seed, "machine": run_dir.machine(), "versions": run_dir.versions(),
        }  # fmt: skip
        write(NAME, settings, figures(table), time.monotonic() - start, table=table)
        for name in ("samplers", "posteriors"):
            shutil.copy(out / f"{name}.png", ROOT / "docs" / "images" / f"{NAME}_{name}.png")


# --- samplers ------------------------------------------------------------------------------------


def ways(T: int) -> dict[str, Callable[..., jax.Array]]:
    """(eps_fn, schedule, key, shape, steps) → samples."""

    def every_step(variance: str) -> Callable[..., jax.Array]:
        return lambda eps_fn, schedule, key, shape, steps: samplers.ancestral(
            eps_fn, schedule, key, shape, variance
        )

    return {
        "ancestral, σ² = β": every_step("beta"),
        "ancestral, σ² = β̃": every_step("posterior"),
        "DDIM, η = 1": partial(samplers.ddim, eta=1.0),
        "DDIM": samplers.ddim,
        "multistep": samplers.multistep,
    }


def of_samplers(args: Settings) -> tuple[list[dict[str, Any]], float]:
    """A row for each sampler, {evaluations: distance}; the floor."""
    rng, num, T = np.random.default_rng(args.seed), args.samples, args.steps
    real, other = (MIXTURE.sample(rng, num) for _ in range(2))
    evaluations = [n for n in (5, 10, 20, 50, 250, 1000) if n <= T]
    schedule = cosine_schedule(T)
    eps_fn, rows = exact.denoiser(MIXTURE, schedule), []
    for name, sampler in ways(T).items():
        errors = {}
        for n in evaluations if "ancestral" not in name else [T]:
            draw = jax.jit(lambda key, n=n, s=sampler: s(eps_fn, schedule, key, (num, 2), n))
            errors[str(n)] = sliced(np.asarray(draw(jax.random.key(args.seed))), real)
        rows.append({"sampler": name, "errors": errors})
    return rows, sliced(other, real)


def sliced(a: np.ndarray, b: np.ndarray, directions: int = 64) -> float:
    """The sliced Wasserstein-1 distance of two sets [N, 2], over evenly spaced directions."""
    angles = np.pi * (np.arange(directions) + 0.5) / directions
    u = np.stack([np.cos(angles), np.sin(angles)])
    return float(np.mean(np.abs(np.sort(a @ u, 0) - np.sort(b @ u, 0))))


# --- inverse problems ----------------------------------------------------------------------------


def of_inverse_methods(args: Settings) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """A row for each method, and its draws."""
    rng, T = np.random.default_rng(args.seed + 1), args.steps
    truth = exact.posterior(MIXTURE, A, Y, NOISE)
    real, other = (truth.sample(rng, args.draws) for _ in range(2))
    schedule = cosine_schedule(T)
    eps_fn, steps = exact.denoiser(MIXTURE, schedule), min(250, T)
    measurement = inverse.Measurement(operators.matrix(A), Y[None], NOISE)

    def drawn(method: Callable[..., jax.Array], at_once: int) -> np.ndarray:
        one = jax.jit(lambda key: method(eps_fn, schedule, key, (at_once, 2), measurement, steps))
        keys = jax.random.split(jax.random.key(args.seed), -(-args.draws // at_once))
        return np.concatenate([np.asarray(one(key)) for key in keys])[: args.draws]

    draws = {"exact": real, "replacement": drawn(inverse.replacement, args.draws)}
    guided = {z: drawn(partial(inverse.dps, zeta=z), args.draws) for z in ZETAS}
    best = min(ZETAS, key=lambda z: sliced(guided[z], real))
    draws[f"DPS, ζ = {best}"] = guided[best]
    draws["ΠGDM"] = drawn(inverse.pigdm, args.draws)
    for particles in PARTICLES:
        if particles <= args.draws:
            draws[f"twisted, {particles:,}"] = drawn(inverse.twisted, particles)
    mean, covariance = truth.moments()
    rows = []
    for name, x in {**draws, "exact": other}.items():
        rows.append({
            "method": name,
            "mean": float(np.linalg.norm(x.mean(0) - mean)),
            "covariance": float(np.linalg.norm(np.cov(x.T) - covariance)),
            "distance": sliced(x, real),
        })  # fmt: skip
    return rows, draws


# --- what is shown -------------------------------------------------------------------------------


def figures(table: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The tables as results have them: names and values."""
    metrics = {
        f"distance, {row['sampler']}, {n} evaluations": {
            "value": round(value, 4), "floor": round(table["floor"], 4),
        }
        for row in table["samplers"] for n, value in row["errors"].items()
    }  # fmt: skip
    floor = next(row for row in table["inverse"] if row["method"] == "exact")
    for row in table["inverse"]:
        if row is not floor:
            for what in ("mean", "covariance", "distance"):
                metrics[f"error of the posterior's {what}, {row['method']}"] = {
                    "value": round(row[what], 4), "floor": round(floor[what], 4),
                }  # fmt: skip
    return metrics


def markdown(table: dict[str, Any]) -> list[str]:
    """The samplers' table of docs/DIFFUSION.md."""
    columns = max((list(row["errors"]) for row in table["samplers"]), key=len)
    lines = [
        f"| evaluations | {' | '.join(columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for row in table["samplers"]:
        cells = [f"{row['errors'][n]:.4f}" if n in row["errors"] else "–" for n in columns]
        lines.append(f"| {row['sampler']} | {' | '.join(cells)} |")
    return lines


def inverse_markdown(table: dict[str, Any]) -> list[str]:
    """The inverse methods' table of docs/DIFFUSION.md."""
    lines = ["| method | mean | covariance | distance |", "|---|---:|---:|---:|"]
    for row in sorted(table["inverse"], key=lambda row: row["method"] != "exact"):
        name = "samples of the truth: the floor" if row["method"] == "exact" else row["method"]
        cells = [f"{row[what]:.3f}" for what in ("mean", "covariance", "distance")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def draw_curves(path: Path, curves: list[dict[str, Any]], floor: float) -> None:
    """Distance against evaluations, both on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=100, layout="constrained")
    axes = figure.subplots()
    for row, mark in zip(curves, "^vosD", strict=True):
        axes.loglog(
            [int(n) for n in row["errors"]], list(row["errors"].values()), f"{mark}-",
            label=row["sampler"], lw=1, ms=5,
        )  # fmt: skip
    axes.axhline(floor, color="#888888", lw=0.8, ls="--", label="two sets of the mixture")
    axes.set(xlabel="evaluations of the denoiser", ylabel="sliced Wasserstein distance")
    axes.legend(fontsize=8)
    figure.savefig(path)


def draw_posteriors(path: Path, draws: dict[str, np.ndarray]) -> None:
    """A panel for each method: its draws, and the line of what was seen."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.3 * len(draws), 2.6), dpi=80, layout="constrained")
    panels = figure.subplots(1, len(draws))
    line = np.linspace(-4, 4, 2)
    for axes, (name, x) in zip(panels, draws.items(), strict=True):
        axes.plot((Y[0] - A[0, 1] * line) / A[0, 0], line, color="#c1666b", lw=0.8)
        axes.plot(*jnp.asarray(x[:1500]).T, ".", color="#26547c", ms=1.5)
        axes.set(xlim=(-3.3, 3), ylim=(-3, 3), aspect="equal", xticks=[], yticks=[], title=name)
    figure.savefig(path)


if __name__ == "__main__":
    run(main, Settings, __doc__)
