"""Real NVP in the plane: the density it has learnt, its draws, and how it bends a grid of z.

What is lost by a map that is continuous: between two moons, or eight squares, a thin thread of
density stays. The score is -ln p of held-out points, in nats; real: the entropy, where a formula
gives it (of the checkerboard ln of its area, of the ring ln 8 + 1 + ln 2πσ²).

Expected, as measured (results/realnvp_densities.json), seed 0, two CPU cores, 108 s:

    nats, moons                                                           2.397
    nats, checkerboard                                                    3.613  (real: 3.466)
    nats, swiss_roll                                                      2.749
    nats, ring8                                                         -0.7597  (real: -2.907)
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from recipe import Args, directory, finish, run, train

from gengen.data import load
from gengen.data.toy import RING8_STD
from gengen.flow import realnvp

NAME = "realnvp_densities"
SETS = ("moons", "checkerboard", "swiss_roll", "ring8")
ENTROPY = {
    "checkerboard": np.log(32.0),
    "ring8": np.log(8) + 1 + np.log(2 * np.pi * RING8_STD**2),
}


@dataclasses.dataclass(frozen=True)
class Settings(Args):
    """Settings of the recipe."""

    steps: int = 4000


class Learnt(NamedTuple):
    """A set and the flow that was trained on it."""

    name: str
    x: np.ndarray
    variables: Any


def main(args: Settings) -> None:
    """Train on each set, score, draw."""
    out, learnt, metrics = directory(args, NAME), [], {}
    cfg = realnvp.Config(shape=(2,), num_couplings=12, hidden=(64, 64), batch_size=256)
    for name in SETS:
        folder = out if name == SETS[0] else out / name
        state = train(realnvp, cfg, load(name), folder, args)
        x = load(f"{name}:test").arrays["x"]
        nats = -np.asarray(realnvp.log_prob(cfg, state.variables, x))
        row = {"value": float(nats.mean())}
        metrics[f"nats, {name}"] = row | ({"floor": ENTROPY[name]} if name in ENTROPY else {})
        learnt.append(Learnt(name, x, state.variables))
    draw_all(out / "maps.png", cfg, learnt, args.seed)
    finish(NAME, out, metrics, args, ["maps"])


def draw_all(path: Path, cfg: realnvp.Config, learnt: list[Learnt], seed: int) -> None:
    """A row for each set: data, density, draws, and a grid of z with what becomes of it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.5 * len(learnt) + 0.3), dpi=80, layout="constrained")
    rows = figure.subplots(len(learnt), 4)
    for axes, (name, x, variables) in zip(rows, learnt, strict=True):
        half = 1.15 * np.abs(x).max()
        dots: Any = dict(s=1.5, c="#26547c", linewidths=0)
        axes[0].scatter(*x[:4000].T, **dots)
        line = np.linspace(-half, half, 240)
        points = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2).astype(np.float32)
        log_p = np.asarray(realnvp.log_prob(cfg, variables, points)).reshape(240, 240)
        p = np.exp(log_p)
        axes[1].imshow(
            p, origin="lower", extent=(-half, half, -half, half), cmap="magma",
            vmax=np.quantile(p[p > 0.01 * p.max()], 0.98),
        )  # fmt: skip
        draws = np.asarray(realnvp.sample(cfg, variables, jax.random.key(seed + 1), 4000))
        axes[2].scatter(*draws.T, **dots)
        for z in lines_of_z():
            bent = np.asarray(realnvp.inverse(cfg, variables, z)[0])
            axes[3].plot(*bent.T, color="#c1666b", lw=0.5)
        axes[0].set_ylabel(name)
        for each in axes:
            each.set(aspect="equal", xlim=(-half, half), ylim=(-half, half), xticks=[], yticks=[])
    for each, title in zip(rows[0], ("data", "density", "draws", "a grid of z"), strict=True):
        each.set_title(title)
    figure.savefig(path)


def lines_of_z() -> list[np.ndarray]:
    """A grid over the middle of N(0, I), two standard deviations about 0."""
    fine, coarse = np.linspace(-2, 2, 200), np.linspace(-2, 2, 17)
    across = [np.stack([fine, np.full_like(fine, c)], 1) for c in coarse]
    return [z.astype(np.float32) for a in across for z in (a, a[:, ::-1])]


if __name__ == "__main__":
    run(main, Settings, __doc__)
