"""Real NVP of images: bits per dimension of held-out pixels, with the protocol spelt out.

Pixels of 8 bits, 0..255, as they are; v + u, u ~ U[0, 1) drawn anew at every look; logits with
α = 0.05; the bound E_u ln p of every held-out image, the mean over eight u. Training ends where a
tenth of the training images, not trained on, gains no more; the best state is scored. The error of
going to z and back is that of logits, in float32.

Expected, as measured (results/realnvp_mnist5k.json), seed 0, two CPU cores, 696 s:

    bits/dim, 500 held-out images                                         1.742
    its standard error                                                   0.0143
    bits/dim, training images                                             1.724
    best step                                                              1200
    largest error of logits, there and back, in 1e-6                      16.81
    fid[mnist-v1]                                                         909.5  (real: 12.59)

Expected, as measured (results/realnvp_fashion.json), seed 0, two CPU cores, 1429 s:

    bits/dim, 10000 held-out images                                        3.65
    its standard error                                                   0.0088
    bits/dim, training images                                             3.604
    best step                                                              1200
    largest error of logits, there and back, in 1e-6                      5.484
    fid[fashion-v1]                                                       820.6  (real: 4.808)
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from recipe import Args, directory, draw, finish, images, in_parts, rows_of, run, scores

import gengen
from gengen.data import load
from gengen.flow import realnvp
from gengen.flow.pixels import to_logits
from gengen.training.checkpoint import steps_in
from gengen.training.validation import FOLDER as BEST
from gengen.training.validation import split

LOOKS = 8  # u's


@dataclasses.dataclass(frozen=True)
class Settings(Args):
    """Settings of the recipe."""

    data: str = "mnist5k"
    """Or fashion."""
    steps: int = 1200
    """At most."""
    patience: int = 5
    """Looks without a lower loss."""


def main(args: Settings) -> None:
    """Train with an eye on validation images; score the held-out ones."""
    name = f"realnvp_{args.data}"
    train, test = load(args.data), load(f"{args.data}:test")
    cfg, out = realnvp.Config(shape=train.shape, num_couplings=2), directory(args, name)
    trained = gengen.train(
        realnvp, train, config=cfg, steps=args.steps, out=out, seed=args.seed, hold_out=0.1,
        validate_every=max(1, args.steps // 20), patience=args.patience,
    )  # fmt: skip
    variables, keys = trained.variables, jax.random.split(jax.random.key(args.seed + 2), LOOKS)

    def bits(x: np.ndarray) -> np.ndarray:
        parts = [
            in_parts(lambda x, k=k: realnvp.bits_per_dim(cfg, variables, x, k), x) for k in keys
        ]
        return np.mean(parts, axis=0)

    x = images(test)
    found = bits(x)
    u = jax.random.uniform(keys[0], x[:500].shape)
    logits, _ = to_logits(cfg.alpha, jax.numpy.asarray(x[:500]), u)
    z, _ = realnvp.forward(cfg, variables, logits)
    back, _ = realnvp.inverse(cfg, variables, z)
    samples = draw(len(x[:2000]), lambda k, n: realnvp.sample(cfg, variables, k, n), args.seed)
    metrics = {
        f"bits/dim, {len(x)} held-out images": {"value": found.mean()},
        "its standard error": {"value": found.std(ddof=1) / np.sqrt(len(x))},
        "bits/dim, training images": {"value": bits(images(split(train, 0.1)[0], 500)).mean()},
        "best step": {"value": max(steps_in(out / BEST))},
        "largest error of logits, there and back, in 1e-6": {
            "value": 1e6 * np.abs(back - logits).max()
        },
    }
    metrics |= scores(samples, train, test)
    shown = samples[:64].reshape(4, 16, *samples.shape[1:])
    rows_of(out / "samples.png", *shown, scale=2)
    finish(name, out, metrics, args, ["samples"])


if __name__ == "__main__":
    run(main, Settings, __doc__)
