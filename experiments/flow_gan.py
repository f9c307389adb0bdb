"""Flow-GAN of 8 × 8 digits: the same flow by maximum likelihood, as a game, and by both.

Grover et al. 2018 (1705.08868): trained as a game alone, a flow gives samples that look right and a
density that hardly covers the data, which its exact likelihood shows; the hybrid keeps both. The
flow, its batches and the number of its steps are equal; bits per dimension are of all 360 held-out
digits of scikit-learn, with uniform dequantisation; fid is of random features of as many samples.

Expected, as measured (results/flow_gan_digits.json), seed 0, two CPU cores, 111 s:

    bits per dimension, maximum likelihood                                5.051
    fid[random-v1], maximum likelihood                                   0.1228  (real: 0.0191)
    bits per dimension, hybrid                                            5.053
    fid[random-v1], hybrid                                               0.0998  (real: 0.0191)
    bits per dimension, game                                          1.362e+04
    fid[random-v1], game                                                  9.489  (real: 0.0191)
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import numpy as np
from recipe import Args, directory, draw, finish, images, rows_of, run, scores, train

from gengen.data import Dataset, load
from gengen.flow import flow_gan

NAME = "flow_gan_digits"
VARIANTS = {  # weights of the game and of the likelihood
    "maximum likelihood": (0.0, 1.0), "hybrid": (1.0, 1.0), "game": (1.0, 0.0),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings(Args):
    """Settings of the recipe."""

    steps: int = 600
    """Train steps of the flow, of each variant."""


def main(args: Settings) -> None:
    """Train each variant; measure density and samples."""
    data, test, out = load("digits"), load("digits:test"), directory(args, NAME)
    assert isinstance(data, Dataset) and isinstance(test, Dataset)
    x, key = images(test), jax.random.key(args.seed + 1)
    base = flow_gan.Config(shape=(8, 8, 1), num_levels=1, num_couplings=2, critic_channels=(32,))
    metrics, rows = {}, []
    for title, (game, likelihood) in VARIANTS.items():
        cfg = dataclasses.replace(base, adversarial_weight=game, likelihood_weight=likelihood)
        own = out if not rows else out / title
        variables = train(flow_gan, cfg, data, own, args).variables
        bits = np.mean(flow_gan.bits_per_dim(cfg, variables, x, key))
        metrics[f"bits per dimension, {title}"] = {"value": float(bits)}
        samples = draw(len(x), partial(flow_gan.sample, cfg, variables), args.seed)
        for score, found in scores(samples, data, test).items():
            metrics[f"{score}, {title}"] = found
        rows.append(2.0 * samples[:16] / 255 - 1)
    rows_of(out / "samples.png", *rows, scale=4)
    finish(NAME, out, metrics, args, ("samples",))


if __name__ == "__main__":
    run(main, Settings, __doc__)
