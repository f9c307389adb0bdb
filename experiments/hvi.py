"""Hamiltonian variational inference of binary digits: what transitions add to a VAE.

The same encoder and decoder, optimiser and steps, without transitions and with one of 1 and of 4
leapfrog steps. Bernoulli likelihood with dynamic binarisation; nats per binary image over all 500
held-out digits: the bound that is maximised, of one path, and the importance-weighted one of 64.

Expected, as measured (results/hvi_mnist5k.json), seed 0, two CPU cores, 85 s:

    bound, nats per image, no transition                                 -121.6
    bound of 64 paths, nats per image, no transition                     -116.9
    bound, nats per image, 1 leapfrog step                               -121.2
    bound of 64 paths, nats per image, 1 leapfrog step                   -116.5
    bound, nats per image, 4 leapfrog steps                              -118.8
    bound of 64 paths, nats per image, 4 leapfrog steps                  -114.5
"""

from __future__ import annotations

import jax
import numpy as np
from recipe import Args, digits, directory, finish, rows_of, run, train

from gengen.vae import hvi

NAME = "hvi_mnist5k"
PATHS = 64  # of the importance-weighted bound


def main(args: Args) -> None:
    """Train each variant; bound ln p(x); sample."""
    (data, _, x), out = digits(), directory(args, NAME)
    key = jax.random.key(args.seed + 1)
    metrics, rows = {}, []
    for transitions, leaps in ((0, 1), (1, 1), (1, 4)):
        cfg = hvi.Config(
            channels=(), hidden=(200, 200), latent_shape=(16,), reverse_hidden=(64,),
            num_transitions=transitions, num_leapfrog_steps=leaps,
        )  # fmt: skip
        own = out if not rows else out / f"leapfrog{leaps}"
        variables = train(hvi, cfg, data, own, args).variables
        title = f"{leaps} leapfrog step{'s' * (leaps > 1)}" if transitions else "no transition"
        for name, num in (("bound", 1), (f"bound of {PATHS} paths", PATHS)):
            nats = np.mean(hvi.log_prob(cfg, variables, x, key, num=num))
            metrics[f"{name}, nats per image, {title}"] = {"value": float(nats)}
        rows.append(hvi.sample(cfg, variables, key, 16))
    rows_of(out / "samples.png", *rows, scale=2)
    finish(NAME, out, metrics, args, ("samples",))


if __name__ == "__main__":
    run(main, Args, __doc__)
