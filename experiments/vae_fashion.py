"""Fashion-MNIST in nats: a convolutional VAE, its importance-weighted likelihood, three seeds.

The protocol, so that others can compare:

- data: Fashion-MNIST, 60,000 training images, 28 × 28, no validation set, nothing augmented;
- training images are binarised dynamically: each pixel is 1 with probability v / 255, v its grey
  value in 0..255, drawn anew whenever the image is seen;
- test images are binarised once, the same for all seeds and in any framework: pixel = 1 where
  `numpy.random.default_rng(0).random((10000, 28, 28, 1)) < v / 255`, v in the file's order;
- likelihood: Bernoulli, 784 binary pixels; encoder and decoder see ±1; figures are nats per image;
- the ELBO is of all 10,000 test images, with one z an image and KL in closed form; the
  importance-weighted bound takes 1,000 z of q(z|x) for each of the first 1,000 of them;
- parameters are the moving average at the last step: no model is chosen by a test image;
- seeds 0, 1, 2 are of the parameters, the order of the data, and all noise; the standard deviation
  is over seeds (n - 1), the standard error over images.

Expected, as measured (results/vae_fashion.json), seed 0, two CPU cores, 442 s:

    ln p(x) by 1000 z, first 1,000 images, mean                          -241.8
    ln p(x) by 1000 z, first 1,000 images, std                           0.2858
    its standard error over images, mean                                   2.36
    ELBO, first 1,000 images, mean                                       -245.9
    ELBO, first 1,000 images, std                                         0.357
    ELBO, all 10,000 images, mean                                        -246.4
    ELBO, all 10,000 images, std                                          0.402
    its term E ln p(x|z), mean                                           -233.1
    its term E ln p(x|z), std                                            0.2016
    its term KL, mean                                                     13.32
    its term KL, std                                                     0.2698
    fid[fashion-v1], 2000 samples, mean                                   363.8  (real: 4.808)
    fid[fashion-v1], 2000 samples, std                                    21.19
    ln p(x) by 1000 z, first 1,000 images, seed 0                        -242.1
    ln p(x) by 1000 z, first 1,000 images, seed 1                        -241.5
    ln p(x) by 1000 z, first 1,000 images, seed 2                        -241.7
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np
from recipe import Args, directory, draw, finish, images, in_parts, run, scores
from recipe import train as fit
from vae import completions

from gengen.data import Dataset, load
from gengen.metrics.likelihood import importance_weighted
from gengen.vae import vae
from gengen.viz.grid import grid, save_png

NAME = "vae_fashion"
CODES = 1000  # of the importance-weighted bound
ERROR = "its standard error over images"


@dataclasses.dataclass(frozen=True)
class Settings(Args):
    """Settings of the recipe."""

    seeds: int = 3
    """How many, from `seed` on."""
    num: int = 1000
    """Test images, the first ones, whose bound is importance-weighted."""
    samples: int = 2000
    """To judge, of each seed."""


def main(args: Settings) -> None:
    """Train each seed, measure, and put the mean of the figures before each of them."""
    train, test = load("fashion"), load("fashion:test")
    x, cfg = binarised(test), vae.Config(channels=(16, 32, 64), latent_shape=(32,))
    out, rows = directory(args, NAME), []
    for seed in range(args.seed, args.seed + args.seeds):
        folder = out if seed == args.seed else out / f"seed{seed}"
        variables = fit(vae, cfg, train, folder, dataclasses.replace(args, seed=seed)).variables
        rows.append(measured(cfg, variables, x, seed, args))
        drawn = draw(args.samples, partial(vae.sample, cfg, variables), seed)
        for score, found in scores(drawn, train, test).items():
            rows[-1][f"{score}, {len(drawn)} samples"] = found
        if seed == args.seed:
            save_png(out / "samples.png", grid(drawn[:64], columns=16), scale=2)
            key = jax.random.key(seed + 1)
            completions(out / "completions.png", cfg, variables, images(test, 10), key)
    metrics: dict[str, dict[str, float]] = {}
    for name, first in rows[0].items():
        values = np.array([row[name]["value"] for row in rows])
        metrics[f"{name}, mean"] = {**first, "value": values.mean()}
        if len(rows) > 1 and name != ERROR:
            metrics[f"{name}, std"] = {"value": values.std(ddof=1)}
    name = bound_name(args)
    for seed, row in enumerate(rows, args.seed):
        metrics[f"{name}, seed {seed}"] = row[name]
    finish(NAME, out, metrics, args, ("samples", "completions"))


def binarised(test: Dataset, seed: int = 0) -> np.ndarray:
    """The test images, each pixel drawn once with its grey value as probability: ±1."""
    v = test.arrays["image"]
    return np.where(np.random.default_rng(seed).random(v.shape) < v / 255, 1, -1).astype(np.float32)


def bound_name(args: Settings) -> str:
    """Of the row of the importance-weighted bound."""
    return f"ln p(x) by {CODES} z, first {args.num:,} images"


def measured(cfg: vae.Config, variables: Any, x: np.ndarray, seed: int, args: Settings) -> dict:
    """The bounds of binary test images x, nats per image. Binarising ±1 changes nothing."""
    key = jax.random.key(seed + 1)
    parts = [
        vae.elbo_terms(cfg, variables, x[i : i + 500], jax.random.fold_in(key, i))
        for i in range(0, len(x), 500)
    ]
    reconstruction, kl = (np.concatenate([p[n] for p in parts]) for n in ("reconstruction", "kl"))
    few = x[: args.num]
    weights = in_parts(lambda x: vae.log_weights(cfg, variables, x, key, CODES).T, few)
    bound = importance_weighted(weights)
    elbo = -reconstruction - kl
    return {
        bound_name(args): {"value": bound.value},
        ERROR: {"value": bound.standard_error or 0.0},
        f"ELBO, first {args.num:,} images": {"value": elbo[: args.num].mean()},
        f"ELBO, all {len(x):,} images": {"value": elbo.mean()},
        "its term E ln p(x|z)": {"value": -reconstruction.mean()},
        "its term KL": {"value": kl.mean()},
    }


if __name__ == "__main__":
    run(main, Settings, __doc__)
