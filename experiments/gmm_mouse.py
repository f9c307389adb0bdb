"""The mouse: k-means cuts pieces off the head for the ears, EM finds all three.

Both look for three parts in the same points. k-means, started ten times, puts each point to the
nearest centre, and so moves the borders of the small parts into the large one; a mixture of
Gaussians learns how wide each part is. The scores are of held-out points, without the few of noise:
the adjusted Rand index (Hubert & Arabie 1985; 1: the true parts, 0: as good as chance), and the
share of points in the right part, with the parts named in the way that suits best.

Expected, as measured (results/gmm_mouse.json), seed 0, two CPU cores, 28 s:

    adjusted Rand index, k-means                                         0.4781
    adjusted Rand index, EM                                              0.9888
    share of points in the right part, k-means                           0.8082
    share of points in the right part, EM                                0.9965
    ln p of a held-out point, nats, EM                                   -1.587
"""

from __future__ import annotations

import dataclasses
from itertools import permutations
from pathlib import Path

import jax
import numpy as np
from recipe import Args, directory, finish, run

from gengen.data import load
from gengen.data.toy import MOUSE_CLASSES
from gengen.density import gmm, kmeans
from gengen.runs.config import describe as settings
from gengen.training.closed_form import fit_run
from gengen.viz.latent import COLOURS

NAME = "gmm_mouse"
K = 3


@dataclasses.dataclass(frozen=True)
class Settings(Args):
    """Settings of the recipe."""

    steps: int = 500
    """Steps at most, of EM and of each run of Lloyd's algorithm."""


def main(args: Settings) -> None:
    """Fit both, count, draw."""
    from sklearn.metrics import adjusted_rand_score

    train, test = load("mouse"), load("mouse:test")
    x, y = test.arrays["x"], test.arrays["label"]
    cfg = gmm.Config(num_components=K, max_steps=args.steps)
    out = directory(args, NAME)
    about = settings(gmm, cfg) | {"parameters": K * (1 + 2 + 4)}  # weights, means, factors
    variables = fit_run(gmm, cfg, train, out=out, settings=about, seed=args.seed)
    lloyd = kmeans.Config(num_clusters=K, max_steps=args.steps)
    centers = kmeans.fit(lloyd, train.arrays["x"], jax.random.key(args.seed))

    known = y < K  # not noise
    found = {
        "k-means": np.asarray(kmeans.encode(lloyd, centers, x))[:, 0],
        "EM": np.asarray(gmm.responsibilities(cfg, variables, x)).argmax(1),
    }
    found = {name: renamed(parts, y, known) for name, parts in found.items()}
    index = {name: float(adjusted_rand_score(y[known], k[known])) for name, k in found.items()}
    metrics = {f"adjusted Rand index, {name}": {"value": v} for name, v in index.items()}
    for name, k in found.items():
        share = float(np.mean(k[known] == y[known]))
        metrics[f"share of points in the right part, {name}"] = {"value": share}
    metrics["ln p of a held-out point, nats, EM"] = {
        "value": float(gmm.log_prob(cfg, variables, x).mean())
    }
    mixture = gmm.mixture(variables)
    rings = [
        ring(np.asarray(m), np.asarray(L))
        for m, L in zip(mixture.means, mixture.factors, strict=True)
    ]
    titles = {name: f"{name}: adjusted Rand index {v:.3f}" for name, v in index.items()}
    panels = {"the mouse": y} | {titles[name]: k for name, k in found.items()}
    draw(out / "parts.png", x, panels, rings, np.asarray(centers["params"]["centers"]))
    finish(NAME, out, metrics, args, ("parts",))


def renamed(parts: np.ndarray, y: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Parts 0, 1, ... under the names that agree best with y."""
    names = [np.array(p) for p in permutations(range(K))]
    return max((p[parts] for p in names), key=lambda k: np.mean(k[known] == y[known]))


def ring(mean: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """The ellipse of two standard deviations: [100, 2]."""
    angle = np.linspace(0, 2 * np.pi, 100)
    return mean + 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1) @ factor.T


def draw(
    path: Path, x: np.ndarray, panels: dict[str, np.ndarray], rings: list[np.ndarray],
    centers: np.ndarray,
) -> None:  # fmt: skip
    """Draw points coloured by their part, side by side: with centres, and in the last with rings.

    Args:
        path: of the picture.
        x: the points [N, 2].
        panels: the part of each point [N], by title: true, k-means, EM.
        rings: of the mixture's components, [M, 2] each.
        centers: of k-means [K, 2].
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.3), dpi=90, layout="constrained")
    axes = figure.subplots(1, len(panels))
    for ax, (title, parts) in zip(axes, panels.items(), strict=True):
        for k in np.unique(parts):
            colour, label = (COLOURS[k], None) if k < K else ("#b5b0a6", MOUSE_CLASSES[k])
            ax.scatter(*x[parts == k].T, s=4, c=colour, linewidths=0, label=label)
        ax.set(title=title, aspect="equal", xticks=[], yticks=[], xlim=(-2, 2), ylim=(-2, 2))
        for spine in ax.spines.values():
            spine.set(color="#dedad1")
    axes[0].legend(frameon=False, fontsize=9, markerscale=3, loc="lower right")
    axes[1].plot(*centers.T, "x", color="black", markersize=8, markeredgewidth=1.5)
    for line in rings:
        axes[-1].plot(*line.T, color="black", linewidth=1.3)
    figure.savefig(path)


if __name__ == "__main__":
    run(main, Settings, __doc__)
