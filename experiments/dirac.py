"""The Dirac-GAN: which ways to train converge, as measured, as published, as the theorem says.

The data are the point 0, the samples the point θ, D(x) = ψx (Mescheder et al. 2018, 1801.04406; see
gengen.gan.dirac). Each variant starts at (1, 1) and takes 10,000 steps of gradient descent of size
h = 0.1, the discriminator first or both at once, with γ = 0.5 (the gradient penalties' λ too) and
σ = 1. Measured: what w = (θ, ψ) does; by what |w| is multiplied in a step on the way from 1e-1 to
1e-6; the largest |eigenvalue| of the Jacobian of the very step that trains, at the equilibrium, by
autodiff, and the theorem's. The picture: trajectories on the field of one simultaneous step, and
the eigenvalues in the plane. The table is in docs/GAN.md.

Expected, as measured (results/dirac.json), seed 0, two CPU cores, 32 s:

    runs                                                                     24
    of these, converging or not as published                                 24
    largest error of an eigenvalue against the theorem, millionths       0.0132
    largest difference of |w|'s decay a step from the theorem's, millionths    138.8
    decay a step, instance noise, simultaneous                            0.976
    decay a step, instance noise, alternating                            0.9748
    decay a step, consensus, simultaneous                                0.9888
    decay a step, consensus, alternating                                 0.9875
    decay a step, R1, simultaneous                                        0.976
    decay a step, R1, alternating                                        0.9748
    decay a step, R2, simultaneous                                        0.976
    decay a step, R2, alternating                                        0.9748
    decay a step, optimistic, simultaneous                               0.9987
    decay a step, optimistic, alternating                                0.9975
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from recipe import Args, directory, finish, run
from record import ROOT

from gengen import loop
from gengen.data import Dataset
from gengen.gan import dirac
from gengen.runs.config import describe as settings

NAME = "dirac"
ORDERS = {"simultaneous": False, "alternating": True}


@dataclasses.dataclass(frozen=True)
class Settings(Args):
    """Settings of the recipe."""

    steps: int = 10_000
    """Train steps of each variant."""


class Row(NamedTuple):
    """One variant in one order of moves."""

    variant: str
    order: str
    path: np.ndarray
    verdict: str
    published: bool
    decay: float
    measured: np.ndarray | None
    theorem: np.ndarray | None


def main(args: Settings) -> None:
    """Train every variant in both orders; compare; draw."""
    cfg, out = dirac.Config(), directory(args, NAME)
    variants = dirac.variants(cfg)
    # One run by the loop, so that the directory and its report are those of any model.
    zeros = Dataset("the point 0", {"x": np.zeros((8, 1), np.float32)})
    loop.run(
        dirac.training(cfg, variants["R1"]), zeros, out=out, steps=min(args.steps, 500),
        batch_size=1, seed=args.seed, settings=settings(dirac, cfg),
    )  # fmt: skip
    rows = []
    for name, variant in variants.items():
        for order, alternating in ORDERS.items():
            path = dirac.trajectory(cfg, variant, args.steps, alternating)
            theorem = dirac.theorem(cfg, variant, alternating)
            measured = None
            if theorem is not None:
                measured = dirac.eigenvalues(cfg, variant, alternating)
            rows.append(Row(name, order, path, dirac.verdict(path), variant.converges,
                            dirac.decay(path), measured, theorem))  # fmt: skip
    lines = [line(row) for row in rows]
    draw(out / "lab.png", cfg, rows)
    (out / "table.md").write_text("\n".join(markdown(lines)) + "\n")
    agree = [(row.verdict == "converges") == row.published for row in rows]
    errors = [np.abs(r.measured - r.theorem).max() for r in rows if r.theorem is not None]
    metrics = {
        "runs": {"value": len(rows)},
        "of these, converging or not as published": {"value": sum(agree)},
        "largest error of an eigenvalue against the theorem, millionths": {
            "value": 1e6 * max(errors, default=0.0)
        },
    }
    converging = [r for r in rows if np.isfinite(r.decay) and r.theorem is not None]
    off = [abs(r.decay - abs(r.theorem[0])) for r in converging if r.theorem is not None]
    name = "largest difference of |w|'s decay a step from the theorem's, millionths"
    metrics[name] = {"value": 1e6 * max(off, default=0.0)}
    for row in converging:
        metrics[f"decay a step, {row.variant}, {row.order}"] = {"value": row.decay}
    finish(NAME, out, metrics, args, ["lab"])
    if args.results:
        path = ROOT / "results" / f"{NAME}.json"
        result = json.loads(path.read_text())
        path.write_text(json.dumps(result | {"table": lines}, indent=2) + "\n")


def line(row: Row) -> dict[str, Any]:
    """A row of the table, as JSON."""
    eigen = {}
    if row.theorem is not None and row.measured is not None:
        measured, theorem = (round(float(abs(v[0])), 5) for v in (row.measured, row.theorem))
        eigen = {"rho": measured, "theorem": theorem}
    decay = {"decay": round(row.decay, 5)} if np.isfinite(row.decay) else {}
    return {
        "variant": row.variant, "order": row.order, "measured": row.verdict,
        "published": "converges" if row.published else "does not", **decay, **eigen,
    }  # fmt: skip


def markdown(lines: list[dict[str, Any]]) -> list[str]:
    """The table for docs/GAN.md: a line for each variant, both orders beside each other."""
    head = "| variant | published | simultaneous | ρ | theorem | alternating | ρ | theorem |"
    rows = [head, "|---|---|---|---:|---:|---|---:|---:|"]
    for both, one in zip(lines[::2], lines[1::2], strict=True):
        cells = [both["variant"], both["published"]]
        for each in (both, one):
            rho = [f"{each[k]:.5f}" if k in each else "–" for k in ("rho", "theorem")]
            cells += [each["measured"], *rho]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def draw(path: Path, cfg: dirac.Config, rows: list[Row]) -> None:
    """A panel for each variant: field and trajectories; the last: eigenvalues and the circle."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row.variant for row in rows))
    columns = 5
    height = -(-(len(names) + 1) // columns)
    figure = Figure(figsize=(3 * columns, 3.1 * height), dpi=80, layout="constrained")
    panels = figure.subplots(height, columns).ravel()
    colours = {"simultaneous": "#c1666b", "alternating": "#26547c"}
    for axes, name in zip(panels, names, strict=False):
        own = [row for row in rows if row.variant == name]
        ends = np.concatenate([row.path[: len(row.path) // 4] for row in own])
        half = 1.1 * max(2.0, np.abs(ends).max())
        grid = np.linspace(-half, half, 15)
        points = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
        v = dirac.field(cfg, dirac.variants(cfg)[name], points)
        v = v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-9)
        axes.quiver(*points.T, *v.T, color="#999999", scale=28, width=0.004)
        for row in own:
            shown = row.path[:2000]
            axes.plot(*shown.T, color=colours[row.order], lw=0.6, label=row.order)
        axes.plot(*jnp.array(cfg.start), "k.", ms=6)
        axes.plot(0, 0, "k+", ms=8)
        axes.set(title=name, xlim=(-half, half), ylim=(-half, half), aspect="equal")
    panels[0].legend(loc="lower right", fontsize=7)
    axes = panels[len(names)]
    angle = np.linspace(-0.2, 0.2, 100)
    axes.plot(np.cos(angle), np.sin(angle), color="#bbbbbb")
    for row in rows:
        if row.measured is not None and len(row.measured) == 2:
            axes.plot(
                np.real(row.measured), np.imag(row.measured), ".", color=colours[row.order], ms=5
            )
    axes.set(title="eigenvalues, and |λ| = 1", xlabel="Re", ylabel="Im")
    for rest in panels[len(names) + 1 :]:
        rest.remove()
    figure.supxlabel("θ, what is generated")
    figure.supylabel("ψ, the discriminator's slope")
    figure.savefig(path)


if __name__ == "__main__":
    run(main, Settings, __doc__)
