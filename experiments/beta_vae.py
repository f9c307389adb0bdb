"""What each term of the ELBO does: a 2-D VAE of digits with the KL term times 0, 1, and 10⁴.

Without the KL term codes of a class lie together, far apart, with nothing between; with it alone
all codes are the prior's, whatever the digit; with both they fill the prior, class beside class.
Then β = 4 against 1 with ten codes (Higgins et al. 2017): half as many nats in them, though all ten
still carry some, blurrier reconstructions, and samples of the prior that are nearer to digits.

Expected, as measured (results/beta_vae.json), seed 0, two CPU cores, 148 s:

    ELBO, nats per image, β = 1, 2 codes                                 -160.2
    its term E ln p(x|z), β = 1, 2 codes                                 -154.7
    its term KL, β = 1, 2 codes                                           5.522
    active codes, β = 1, 2 codes                                              2
    fid[mnist-v1], β = 1, 2 codes                                           566  (real: 12.59)
    ELBO, nats per image, β = 0, 2 codes                                 -178.9
    its term E ln p(x|z), β = 0, 2 codes                                 -152.1
    its term KL, β = 0, 2 codes                                            26.8
    active codes, β = 0, 2 codes                                              2
    fid[mnist-v1], β = 0, 2 codes                                          1101  (real: 12.59)
    ELBO, nats per image, β = 10000, 2 codes                             -206.2
    its term E ln p(x|z), β = 10000, 2 codes                             -206.2
    its term KL, β = 10000, 2 codes                                           0
    active codes, β = 10000, 2 codes                                          0
    fid[mnist-v1], β = 10000, 2 codes                                      2909  (real: 12.59)
    ELBO, nats per image, β = 1, 10 codes                                -116.2
    its term E ln p(x|z), β = 1, 10 codes                                 -98.4
    its term KL, β = 1, 10 codes                                          17.76
    active codes, β = 1, 10 codes                                            10
    fid[mnist-v1], β = 1, 10 codes                                        472.1  (real: 12.59)
    ELBO, nats per image, β = 4, 10 codes                                -128.1
    its term E ln p(x|z), β = 4, 10 codes                                -119.4
    its term KL, β = 4, 10 codes                                          8.697
    active codes, β = 4, 10 codes                                            10
    fid[mnist-v1], β = 4, 10 codes                                        353.5  (real: 12.59)
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np
from recipe import Args, digits, directory, draw, finish, run, scores
from recipe import train as fit

from gengen.representation import embedding
from gengen.vae import vae
from gengen.viz import latent
from gengen.viz.grid import save_png

NAME = "beta_vae"
ACTIVE = 0.01  # variance over examples of a code's mean, from which it carries something (Burda)


@dataclasses.dataclass(frozen=True)
class Settings(Args):
    """Settings of the recipe."""

    steps: int = 4000
    """Train steps, of each model."""


def main(args: Settings) -> None:
    """Train five small VAEs; the first one's directory holds the others, and all pictures."""
    train, test, x = digits()
    small, out = vae.Config(channels=(), hidden=(256,)), directory(args, NAME)
    metrics: dict[str, Any] = {}
    for number, (beta, dims) in enumerate(((1.0, 2), (0.0, 2), (1e4, 2), (1.0, 10), (4.0, 10))):
        cfg = dataclasses.replace(small, beta=beta, latent_shape=(dims,))
        name, title = f"beta{beta:g}_{dims}", f"β = {beta:g}, {dims} codes"
        folder = out / name if number else out
        variables = fit(vae, cfg, train, folder, args).variables
        parts = vae.elbo_terms(cfg, variables, x, jax.random.key(args.seed + 1))
        nats = {term: float(value.mean()) for term, value in parts.items()}
        z = np.asarray(vae.encode(cfg, variables, x))
        metrics[f"ELBO, nats per image, {title}"] = {"value": -nats["reconstruction"] - nats["kl"]}
        metrics[f"its term E ln p(x|z), {title}"] = {"value": -nats["reconstruction"]}
        metrics[f"its term KL, {title}"] = {"value": nats["kl"]}
        metrics[f"active codes, {title}"] = {"value": float((z.var(0) > ACTIVE).sum())}
        samples = draw(len(test), partial(vae.sample, cfg, variables), args.seed)
        for score, found in scores(samples, train, test).items():
            metrics[f"{score}, {title}"] = found
        decode = partial(vae.decode, cfg, variables)
        if dims == 2:
            view = embedding.scatter(z, test.arrays["label"], test.classes)
            save_png(out / f"codes_{name}.png", view)
            save_png(out / f"manifold_{name}.png", latent.manifold(decode, 15), scale=2)
        else:
            rows = latent.traversals(decode, z[0], num=11)
            save_png(out / f"traversals_{name}.png", rows, scale=2)
    finish(NAME, out, metrics, args, ("manifold_beta1_2",))


if __name__ == "__main__":
    run(main, Settings, __doc__)
