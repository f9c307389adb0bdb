"""A conditional VAE: the digit that is asked for, blends of two, and the bottom half of a digit.

z has but 4 numbers: with 16 the encoder puts the class into z as well, the decoder goes by it, and
a z of the prior then contradicts the class that is asked for. The class seen is what the classifier
mnist-v1 reads, which was trained on real digits only; "real" is its accuracy on held-out digits.

Expected, as measured (results/cvae_mnist5k.json), seed 0, two CPU cores, 121 s:

    class asked = class seen, share of 2000                               0.986  (real: 0.984)
    ELBO of ln p(x|y), nats per image                                    -117.1
    fid[mnist-v1]                                                         52.13  (real: 12.59)
    ELBO of ln p(x|upper half), nats per image                           -81.84
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from recipe import Args, digits, directory, finish, in_parts, rows_of, run, scores
from recipe import train as fit

from gengen.data import to_uint8
from gengen.metrics import classifier
from gengen.vae import cvae
from gengen.viz.grid import grid, save_png

NAME = "cvae_mnist5k"
NUM = 2000  # samples that are asked for
STYLE = 4  # numbers of z
BLENDS = ((1, 7), (3, 8), (4, 9), (0, 6), (2, 5))


def main(args: Args) -> None:
    """Train on classes, then on upper halves; ask for every class, and for completions."""
    train, test, x = digits()
    cfg = cvae.Config(channels=(16, 32, 64), latent_shape=(STYLE,), learning_rate=2e-3)
    key = jax.random.key(args.seed + 1)
    out = directory(args, NAME)
    variables = fit(cvae, cfg, train, out, args).variables

    asked = np.arange(NUM, dtype=np.int32) % cfg.num_classes
    noise = np.asarray(jax.random.normal(key, (NUM, *cfg.latent_shape)))
    samples = in_parts(lambda z, y: cvae.decode(cfg, variables, z, condition=y), noise, asked)
    samples = to_uint8(samples)
    judge = classifier.load("mnist-v1")

    def seen(images: np.ndarray, labels: np.ndarray) -> float:
        return classifier.consistency(judge.probabilities(images), labels)

    bound = cvae.elbo(cfg, variables, x, key, condition=test.arrays["label"])
    metrics: dict[str, Any] = {
        f"class asked = class seen, share of {NUM}": {
            "value": seen(samples, asked),
            "floor": seen(test.arrays["image"], test.arrays["label"]),
        },
        "ELBO of ln p(x|y), nats per image": {"value": float(bound.mean())},
        **scores(samples[: len(test)], train, test),
    }

    z = noise[:8]
    rows = cvae.decode(cfg, variables, np.repeat(z, 10, axis=0), condition=np.tile(asked[:10], 8))
    save_png(out / "hands.png", grid(rows, columns=10), scale=2)
    weights = np.zeros((len(BLENDS), 11, 10), np.float32)
    for row, (a, b) in zip(weights, BLENDS, strict=True):
        row[:, a], row[:, b] = np.linspace(1, 0, 11), np.linspace(0, 1, 11)
    weights = weights.reshape(-1, 10)
    same = np.repeat(z[:1], len(weights), axis=0)
    blends = cvae.decode(cfg, variables, same, condition=weights)
    save_png(out / "blends.png", grid(blends, columns=11), scale=2)

    upper = (0, cfg.shape[0] // 2, 0, cfg.shape[1])
    half = dataclasses.replace(cfg, known_region=upper, latent_shape=(16,))
    lower = fit(cvae, half, train, out / "upper_half", args).variables
    bound = cvae.elbo(half, lower, x, key)
    metrics["ELBO of ln p(x|upper half), nats per image"] = {"value": float(bound.mean())}
    completions(out / "completions.png", half, lower, x[:10], key)
    finish(NAME, out, metrics, args, ("hands", "completions"))


def completions(path: Path, cfg: cvae.Config, variables: dict, x: np.ndarray, key) -> None:
    """A column for each image: it, what is known of it, and eight guesses at the rest."""
    known = np.where(x > 0, 1.0, -1.0).astype(np.float32)
    several = cvae.sample(cfg, variables, key, 8 * len(x), condition=np.tile(known, (8, 1, 1, 1)))
    shown = cvae.network_input(cfg, known, len(x))
    rows_of(path, x, shown, *np.split(np.asarray(several), 8), scale=2)


if __name__ == "__main__":
    run(main, Args, __doc__)
