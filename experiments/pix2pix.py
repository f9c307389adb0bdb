"""Pix2pix beside plain L1 regression with the same generator, at equal steps, on offline pairs.

`--task edges`: from Sobel's edges to Fashion-MNIST; `--task grey`: from grey to colour patches of
two photographs. Held-out pairs are translated. L1 (levels of 255), PSNR and SSIM are against the
targets; "class", for edges, is the share of translations whose class `fashion-v1` confirms (real:
of the targets). `pairs.png`: input, regression, pix2pix, target. Learning rates and dropout were
chosen by `fid` and L1 of training pairs that were left out. The times were taken beside other jobs.

    python experiments/pix2pix.py --task edges --results
    python experiments/pix2pix.py --task grey --results

Expected, as measured (results/pix2pix_edges.json), seed 0, two CPU cores, 480 s:

    l1, pix2pix                                                           11.93
    psnr, pix2pix                                                         21.38
    ssim, pix2pix                                                        0.7225
    fid[fashion-v1], pix2pix                                              35.33  (real: 11.37)
    class, pix2pix                                                        0.886  (real: 0.925)
    l1, regression                                                        11.22
    psnr, regression                                                      22.13
    ssim, regression                                                      0.735
    fid[fashion-v1], regression                                           38.77  (real: 11.37)
    class, regression                                                     0.876  (real: 0.925)

Expected, as measured (results/pix2pix_grey.json), seed 0, two CPU cores, 114 s:

    l1, pix2pix                                                           9.112
    psnr, pix2pix                                                         28.84
    ssim, pix2pix                                                        0.8504
    fid[random-v1], pix2pix                                               1.747  (real: 1.963)
    l1, regression                                                        9.144
    psnr, regression                                                      28.81
    ssim, regression                                                     0.8669
    fid[random-v1], regression                                            1.788  (real: 1.963)
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from recipe import Args, directory, finish, first, images, run, scores, titled, train

from gengen.contract import Task, default_config
from gengen.data import Dataset, Stream, load, to_uint8
from gengen.data.pairs import one_kind
from gengen.gan import pix2pix
from gengen.metrics import classifier, similarity
from gengen.runs import translations

DATA = {"edges": "edges:fashion", "grey": "grey:photographs"}
OWN = {"edges": "fashion", "grey": "photographs"}  # data sets that targets are from
HELD_OUT, REAL, SHOWN = 1000, 10_000, 12


@dataclasses.dataclass(frozen=True)
class Settings(Args):
    """Settings of the recipe."""

    task: Literal["edges", "grey"] = "edges"
    """What is translated."""
    steps: int = 4000
    """Train steps of each model."""


def main(args: Settings) -> None:
    """Train both, translate, score, draw."""
    name, spec = f"pix2pix_{args.task}", DATA[args.task]
    data, held_out = load(spec), first(load(f"{spec}:test"), HELD_OUT)
    task = Task(tuple(data.shape), target_shape=data.target_shape, steps=args.steps)
    cfg = default_config(pix2pix.Config, task)
    plain = dataclasses.replace(cfg, adversarial_weight=0.0)
    out, metrics = directory(args, name), {}
    x = images(held_out)
    real, target = (_targets(d, OWN[args.task]) for d in (data, held_out))
    truth = target.arrays["image"]
    rows = [("input", x[:SHOWN])]
    for way, own, path in (("pix2pix", cfg, out), ("regression", plain, out / "regression")):
        trained = train(pix2pix, own, data, path, args)
        y = translations.of_run(trained, x, args.seed)
        made = to_uint8(y)
        found = similarity.estimates(made, truth, 255)
        metrics |= {f"{k}, {way}": {"value": found[k].value} for k in ("l1", "psnr", "ssim")}
        metrics |= {f"{k}, {way}": v for k, v in scores(made, first(real, REAL), target).items()}
        if args.task == "edges":
            metrics[f"class, {way}"] = _class(made, target)
        rows.insert(1, (way, y[:SHOWN]))
    rows.append(("target", images(target)[:SHOWN]))
    titled(out / "pairs.png", _alike(rows))
    finish(name, out, metrics, args, ("pairs",))


def _targets(pairs: Dataset | Stream, name: str) -> Dataset:
    """Return the targets under the name of their own data set, whose classifier scores them."""
    targets = one_kind(pairs, "target")
    assert isinstance(targets, Dataset)
    return dataclasses.replace(targets, name=name)


def _class(made: np.ndarray, target: Dataset) -> dict[str, float]:
    """Return the share of images whose class the classifier confirms, and that of the targets."""
    known, labels = classifier.load("fashion-v1"), target.arrays["label"]
    shares = [
        float((known.probabilities(x).argmax(1) == labels).mean())
        for x in (made, target.arrays["image"])
    ]
    return {"value": shares[0], "floor": shares[1]}


def _alike(rows: list[tuple[str, np.ndarray]]) -> list[tuple[str, np.ndarray]]:
    """Return rows of images of one shape: grey ones as colour where there is any."""
    return list(zip([t for t, _ in rows], translations.alike([x for _, x in rows]), strict=True))


if __name__ == "__main__":
    run(main, Settings, __doc__)
