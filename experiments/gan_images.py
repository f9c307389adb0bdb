"""DCGAN, LSGAN, WGAN, WGAN-GP, the ResNet GAN with R1 and a conditional GAN, on images.

Small networks, so that each is a few minutes of two cores: what it shows is that every one of them
draws images, and what they cost, not which is best. The samples, as many as there are held-out
images (of Fashion-MNIST the first 2,000), are scored against training images (the first 10,000), in
the features of the data's own classifier; the floor is the same of the held-out ones. Of the
conditional GAN also the share of samples that the classifier takes for the class that was asked
(real: of held-out images). One run directory and one result for each:

    python experiments/gan_images.py --model dcgan --data fashion --results

The main figures; all of them are in docs/GAN.md.

Expected, as measured (results/cgan_mnist5k.json), seed 0, two CPU cores, 272 s:
    fid[mnist-v1]                                                         46.85  (real: 12.59)
Expected, as measured (results/dcgan_mnist5k.json), seed 0, two CPU cores, 188 s:
    fid[mnist-v1]                                                         575.8  (real: 12.59)
Expected, as measured (results/lsgan_mnist5k.json), seed 0, two CPU cores, 318 s:
    fid[mnist-v1]                                                         627.6  (real: 12.59)
Expected, as measured (results/wgan_mnist5k.json), seed 0, two CPU cores, 360 s:
    fid[mnist-v1]                                                         980.3  (real: 12.59)
Expected, as measured (results/wgan_gp_mnist5k.json), seed 0, two CPU cores, 378 s:
    fid[mnist-v1]                                                         542.5  (real: 12.59)
Expected, as measured (results/resnet_gan_mnist5k.json), seed 0, two CPU cores, 283 s:
    fid[mnist-v1]                                                         579.2  (real: 12.59)
Expected, as measured (results/dcgan_fashion.json), seed 0, two CPU cores, 195 s:
    fid[fashion-v1]                                                       449.5  (real: 5.394)
Expected, as measured (results/lsgan_fashion.json), seed 0, two CPU cores, 240 s:
    fid[fashion-v1]                                                       695.2  (real: 5.394)
Expected, as measured (results/wgan_fashion.json), seed 0, two CPU cores, 171 s:
    fid[fashion-v1]                                                       804.2  (real: 5.394)
Expected, as measured (results/wgan_gp_fashion.json), seed 0, two CPU cores, 386 s:
    fid[fashion-v1]                                                       575.4  (real: 5.394)
Expected, as measured (results/resnet_gan_fashion.json), seed 0, two CPU cores, 314 s:
    fid[fashion-v1]                                                         609  (real: 5.394)
"""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from recipe import CHUNK, Args, directory, draw, finish, first, rows_of, run, scores, table, train

from gengen.data import load
from gengen.gan import cgan, dcgan, lsgan, resnet_gan, wgan, wgan_gp
from gengen.metrics import classifier

REAL, HELD_OUT = 10_000, 2000  # images at most that samples are scored against


class Way(NamedTuple):
    """A model at a size for two cores."""

    module: ModuleType
    cfg: Any
    steps: int


PAPER_RATES: dict[str, Any] = dict(
    learning_rate=2e-4, discriminator_learning_rate=2e-4, ema_decay=0.99
)
WAYS = {
    "dcgan": Way(dcgan, dcgan.Config(**PAPER_RATES), 3000),
    "lsgan": Way(lsgan, lsgan.Config(**PAPER_RATES), 3000),
    "wgan": Way(wgan, wgan.Config(), 1500),
    "wgan_gp": Way(wgan_gp, wgan_gp.Config(ema_decay=0.99), 1500),
    "cgan": Way(cgan, cgan.Config(), 3000),
    "resnet_gan": Way(resnet_gan, resnet_gan.Config(), 1500),
}


@dataclasses.dataclass(frozen=True)
class Settings(Args):
    """Settings of the recipe."""

    model: str = "dcgan"
    """One of dcgan, lsgan, wgan, wgan_gp, resnet_gan, cgan."""
    data: str = "mnist5k"
    """Or fashion."""
    steps: int = 0
    """Train steps; 0: as many as were found to do."""


def main(args: Settings) -> None:
    """Train, look, score."""
    if args.model not in WAYS:
        raise ValueError(f"model = {args.model!r}, but it is one of {', '.join(WAYS)}")
    way, name = WAYS[args.model], f"{args.model}_{args.data}"
    real, held_out = load(args.data), load(f"{args.data}:test")
    args = dataclasses.replace(args, steps=args.steps or way.steps)
    out = directory(args, name)
    variables = train(way.module, way.cfg, real, out, args).variables
    held_out = first(held_out, HELD_OUT)
    drawn = draw(
        len(held_out), lambda key, n: way.module.sample(way.cfg, variables, key, n), args.seed
    )
    found = scores(drawn, first(real, REAL), held_out, ("fid", "prdc"))
    metrics = {k: v for k, v in found.items() if k.startswith(("fid", "precision", "recall"))}
    if way.module is cgan:  # draws have each class in turn, in every part of them
        asked = np.arange(len(drawn)) % CHUNK % 10
        real_ones, labels = (held_out.arrays[k] for k in ("image", "label"))
        metrics["class asked = class seen"] = {
            "value": seen(args.data, drawn, asked), "floor": seen(args.data, real_ones, labels),
        }  # fmt: skip
    some = 2.0 * drawn[:60] / 255 - 1
    rows_of(out / "samples.png", *some.reshape(6, 10, *some.shape[1:]), scale=2)
    finish(name, out, metrics, args, ("samples",))


def seen(data: str, x: np.ndarray, y: np.ndarray) -> float:
    """The share of images x that the data's classifier takes for y."""
    judge = classifier.load({"mnist5k": "mnist-v1", "fashion": "fashion-v1"}[data])
    return classifier.consistency(judge.probabilities(x), y)


def markdown(results: dict[str, dict[str, Any]]) -> list[str]:
    """The table of docs/GAN.md: a row for each model, a set's figures beside it; floors last.

    Args:
        results: the content of results/NAME.json, by NAME, which is MODEL_DATA.
    """
    sets = [d for d in ("mnist5k", "fashion") if any(name.endswith(d) for name in results)]
    models = list(dict.fromkeys(name.rsplit("_", 1)[0] for name in results))
    head = [""] + [f"{d}: {c}" for d in sets for c in ("fid", "precision", "recall", "s")]
    rows = []
    for model in models:
        rows.append([f"`{model}`"])
        for data in sets:
            result = results.get(f"{model}_{data}")
            rows[-1] += ["–"] * 4 if result is None else _cells(result, "value")
            rows[-1][-1] = "–" if result is None else f"{result['seconds']:.0f}"
    rows.append(["held-out images"])
    for data in sets:
        rows[-1] += _cells(results[next(n for n in results if n.endswith(data))], "floor")
    return table(head, rows)


def _cells(result: dict[str, Any], column: str) -> list[str]:
    names = ((name.split("[")[0], row[column]) for name, row in result["metrics"].items())
    found = {name: value for name, value in names if name in ("fid", "precision", "recall")}
    return [f"{found['fid']:.0f}", *(f"{found[k]:.2f}" for k in ("precision", "recall")), ""]


if __name__ == "__main__":
    run(main, Settings, __doc__)
