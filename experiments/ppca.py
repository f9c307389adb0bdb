"""PPCA of digits: how many components, scikit-learn beside it, and the hidden half of a digit.

The log-likelihood is of the 500 held-out digits of mnist5k, 28 × 28 grey values in [-1, 1], by the
number of components, fitted to the 4,500 others; PCA.score of scikit-learn computes the same. Of
these numbers the one that is likeliest on the last 500 training digits, after a fit to those
before, is taken for the imputation: the lower half of each held-out digit is hidden and filled in
by p(lower | upper), a Gaussian. The errors are of its mean, of a sample and of the mean image.

Expected, as measured (results/ppca.json), seed 0, two CPU cores, 122 s:

    ln p of a held-out digit, nats, 5 components                         -453.7
    the same, PCA.score, 5 components                                    -453.7
    ln p of a held-out digit, nats, 20 components                        -243.4
    the same, PCA.score, 20 components                                   -243.4
    ln p of a held-out digit, nats, 50 components                        -40.01
    the same, PCA.score, 50 components                                   -40.01
    ln p of a held-out digit, nats, 100 components                        130.2
    the same, PCA.score, 100 components                                   130.2
    ln p of a held-out digit, nats, 200 components                        270.4
    the same, PCA.score, 200 components                                   270.4
    components, likeliest on validation digits                              200
    MSE of a hidden pixel, mean image                                    0.2856
    MSE of a hidden pixel, conditional mean                              0.2168
    MSE of a hidden pixel, sample                                        0.3103
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import jax
import numpy as np
from recipe import Args, digits, directory, error, finish, images, in_parts, rows_of, run

from gengen.density import ppca
from gengen.runs.config import describe as settings
from gengen.training.closed_form import fit_run
from gengen.types import PyTree
from gengen.viz.grid import INK_COLOUR, _figure, _render, save_png
from gengen.viz.latent import COLOURS

NAME = "ppca"
COMPONENTS = (5, 20, 50, 100, 200)
VALIDATION = 500  # the last training digits
SAMPLES = 4  # of each hidden half, in the picture


@dataclasses.dataclass(frozen=True)
class Settings(Args):
    """Settings of the recipe."""

    steps: int = 0
    """Steps of EM; 0: the closed form."""


def main(args: Settings) -> None:
    """Fit each number of components, score beside scikit-learn, fill in what is hidden."""
    from sklearn.decomposition import PCA

    train, _, x = digits()
    seen, out = images(train), directory(args, NAME)
    # scikit-learn's covariance is unbiased.
    base = ppca.Config(shape=train.shape, em_steps=args.steps, ddof=1)
    configs = {k: dataclasses.replace(base, latent_dim=k) for k in COMPONENTS}
    early, late = seen[:-VALIDATION], seen[-VALIDATION:]
    chosen = max(COMPONENTS, key=lambda k: score(configs[k], early, late, args.seed))

    metrics, ours, theirs = {}, [], []
    for k, cfg in configs.items():
        ours.append(score(cfg, seen, x, args.seed))
        flat = seen.reshape(len(seen), -1).astype(np.float64)
        pca = PCA(k, svd_solver="covariance_eigh").fit(flat)
        theirs.append(float(pca.score(x.reshape(len(x), -1))))
        metrics[f"ln p of a held-out digit, nats, {k} components"] = {"value": ours[-1]}
        metrics[f"the same, PCA.score, {k} components"] = {"value": theirs[-1]}
    metrics["components, likeliest on validation digits"] = {"value": chosen}

    cfg = configs[chosen]
    variables = fit_run(ppca, cfg, train, out=out, settings=settings(ppca, cfg), seed=args.seed)
    curve(out / "likelihood.png", ours, theirs, chosen)
    hidden = filled(out / "imputation.png", cfg, variables, x, args.seed)
    half = x.shape[1] // 2
    hidden = {"mean image": np.broadcast_to(seen.mean(0), x.shape)} | hidden
    for name, got in hidden.items():
        metrics[f"MSE of a hidden pixel, {name}"] = error(x[:, half:], got[:, half:])
    finish(NAME, out, metrics, args, ("likelihood", "imputation"))


def score(cfg: ppca.Config, seen: np.ndarray, x: np.ndarray, seed: int) -> float:
    """Mean log-likelihood of x, nats, of a fit to what was seen."""
    variables = ppca.fit(cfg, seen, jax.random.key(seed))
    return float(in_parts(partial(ppca.log_prob, cfg, variables), x).astype(np.float64).mean())


def filled(
    path: Path, cfg: ppca.Config, variables: PyTree, x: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """The images with their lower half filled in: by its mean given the upper, and by a sample.

    The picture has a column for each of some images: it, what is known, the mean, samples.
    """
    mask = np.arange(x.shape[1])[:, None, None] < x.shape[1] // 2
    given = np.where(mask, x, 0)

    def impute(x: np.ndarray, i: int, mean: bool) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed + 1), i)
        return ppca.impute(cfg, variables, x, mask, key, mean=mean)

    mean = in_parts(lambda x: impute(x, 0, True), given)
    samples = [impute(given[:10], i, False) for i in range(SAMPLES)]
    rows_of(path, x[:10], given[:10], mean[:10].clip(-1, 1), *samples, scale=2)
    return {"conditional mean": mean, "sample": in_parts(lambda x: impute(x, 0, False), given)}


def curve(path: Path, ours: list[float], theirs: list[float], chosen: int) -> None:
    """Log-likelihood by number of components."""
    figure, axes = _figure(640, 360)
    axes.plot(COMPONENTS, ours, color=COLOURS[0], marker="o", label="gengen.density.ppca")
    axes.plot(COMPONENTS, theirs, "x", color=COLOURS[3], markersize=9, label="PCA.score")
    axes.axvline(chosen, color=INK_COLOUR, linewidth=0.8, linestyle=":", label="chosen")
    axes.set(xscale="log")
    axes.set_xticks(COMPONENTS, [str(k) for k in COMPONENTS], minor=False)
    axes.set_title("ln p of a held-out digit, nats, by components", fontsize=9, color=INK_COLOUR)
    axes.legend(fontsize=8, frameon=False, labelcolor=INK_COLOUR)
    save_png(path, _render(figure))


if __name__ == "__main__":
    run(main, Settings, __doc__)
