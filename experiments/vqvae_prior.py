"""From codes to images: a VQ-VAE of Fashion-MNIST, and a PixelCNN that has learnt its 7 × 7 codes.

The prior is told the class, so that each can be asked for; the class seen is what the classifier
fashion-v1 takes the sample for, of 2,000 samples, and of as many test images (real). The bound is
of ln p(x|y), nats per binary image: what the reconstruction costs, and the codes, first at ln 64
each, then by the prior. The VAE's fid beside it is that of results/vae_fashion.json: that VAE is
not told the class.

Expected, as measured (results/vqvae_prior_fashion.json), seed 0, two CPU cores, 968 s:

    fid[fashion-v1], 2000 samples                                         288.1  (real: 4.808)
    precision[fashion-v1], 2000 samples                                   0.714  (real: 0.91)
    recall[fashion-v1], 2000 samples                                     0.6087  (real: 0.9351)
    density[fashion-v1], 2000 samples                                    0.5504  (real: 0.9863)
    coverage[fashion-v1], 2000 samples                                   0.0578  (real: 0.1496)
    fid[fashion-v1] of the VAE's samples                                  363.8  (real: 4.808)
    fid[fashion-v1] of the reconstructions                                137.7  (real: 4.808)
    class asked = class seen                                              0.678  (real: 0.922)
    perplexity of 64 atoms                                                42.98
    ELBO, nats per image                                                 -325.3
    its term -ln p(codes|class)                                           112.3
    the same under a uniform prior, 49 ln 64                              203.8
"""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from typing import Any

import jax
import numpy as np
from recipe import Args, directory, draw, finish, images, in_parts, rows_of, run, scores
from recipe import train as fit
from record import ROOT

from gengen.data import load, to_uint8
from gengen.metrics import classifier
from gengen.vae import vqvae, vqvae_prior

NAME = "vqvae_prior_fashion"
FEW = 2000  # images whose bound and reconstruction are scored, and samples


@dataclasses.dataclass(frozen=True)
class Settings(Args):
    """Settings of the recipe."""

    data: str = "fashion"
    """Or mnist5k."""
    samples: int = FEW
    """To judge, and as many test images, the first ones."""


def main(args: Settings) -> None:
    """Train both stages; score samples, reconstructions and the bound."""
    train, test = load(args.data), load(f"{args.data}:test")
    name = f"vqvae_prior_{args.data}"
    cfg = vqvae_prior.Config(num_classes=10)
    out, key = directory(args, name), jax.random.key(args.seed + 1)
    variables = fit(vqvae_prior, cfg, train, out, args).variables
    own, codec = vqvae_prior.codec(cfg), variables["codec"]

    x, y = images(test, args.samples), test.arrays["label"][: args.samples]
    back = in_parts(lambda x: vqvae_prior.reconstruct(cfg, variables, x), x)
    k = in_parts(lambda x: vqvae.codes(own, codec, x), x)
    bound = in_parts(lambda x, y: vqvae_prior.elbo(cfg, variables, x, key, condition=y), x, y)
    prior = in_parts(lambda k, y: vqvae_prior.log_prior(cfg, variables, k, y), k, y)
    asked = np.arange(len(x), dtype=np.int32) % 10
    drawn = draw_classes(cfg, variables, asked, args.seed)
    judge = classifier.load({"fashion": "fashion-v1", "mnist5k": "mnist-v1"}[args.data])

    def seen(images: np.ndarray, labels: np.ndarray) -> float:
        return classifier.consistency(judge.probabilities(images), labels)

    metrics: dict[str, dict[str, float]] = {
        f"{score}, {len(drawn)} samples": found
        for score, found in scores(drawn, train, test, ("fid", "prdc")).items()
    }
    if args.data == "fashion":
        vae = json.loads((ROOT / "results" / "vae_fashion.json").read_text())["metrics"]
        metrics["fid[fashion-v1] of the VAE's samples"] = vae["fid[fashion-v1], 2000 samples, mean"]
    metrics |= {
        f"{score} of the reconstructions": found
        for score, found in scores(to_uint8(back), train, test).items()
    }
    metrics |= {
        "class asked = class seen": {
            "value": seen(drawn, asked),
            "floor": seen(test.arrays["image"][: len(x)], y),
        },
        "perplexity of 64 atoms": {"value": float(vqvae.perplexity(own, jax.numpy.asarray(k)))},
        "ELBO, nats per image": {"value": float(bound.mean())},
        "its term -ln p(codes|class)": {"value": -float(prior.mean())},
        "the same under a uniform prior, 49 ln 64": {"value": vqvae.kl(own)},
    }
    shown = np.stack([drawn[asked == c][:16] for c in range(10)])
    rows_of(out / "classes.png", *(shown / np.float32(127.5) - 1), scale=2)
    finish(name, out, metrics, args, ("classes",))


def draw_classes(cfg: Any, variables: Any, asked: np.ndarray, seed: int) -> np.ndarray:
    """A sample of each class that is asked for: uint8."""
    at = iter(range(0, len(asked), 250))

    def some(key: jax.Array, num: int) -> jax.Array:
        start = next(at)
        y = np.resize(asked[start : start + num], num)
        return vqvae_prior.sample(cfg, variables, key, num, condition=y)

    return draw(len(asked), partial(some), seed)


if __name__ == "__main__":
    run(main, Settings, __doc__)
