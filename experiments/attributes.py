"""Attribute arithmetic: slant and stroke thickness are added to the codes of held-out digits.

A VAE of dense layers encodes the digits. The vector of an attribute is the mean code of the
training digits that have more of it than the median of their class, minus the mean code of the
others; so both sides hold the classes in equal numbers. The vector, times -2, -1, 0, 1 and 2, is
added to the codes of the 500 held-out digits. The attribute is measured on the decoded images, in
standard deviations over the held-out digits (gengen.metrics.attributes), and the classifier
mnist-v1 counts the digits that keep their class. For comparison: ten random vectors of the same
length, and what the vector does to the other attribute.

Expected, as measured (results/attributes.json), seed 0, two CPU cores, 182 s:

    slant: change, -2 vectors                                            -1.435
    slant: class kept, -2 vectors                                         0.562
    slant: change, -1 vectors                                           -0.8447
    slant: class kept, -1 vectors                                         0.872
    slant: change, 0 vectors                                                  0
    slant: class kept, 0 vectors                                          0.946
    slant: change, 1 vectors                                             0.7738
    slant: class kept, 1 vectors                                          0.896
    slant: change, 2 vectors                                              1.285
    slant: class kept, 2 vectors                                          0.706
    slant: share of digits in which it grows with each vector             0.922
    slant: change of thickness, 2 vectors                               -0.2227
    slant: size of the change, 2 random vectors                          0.3734
    slant: class kept, 2 random vectors                                  0.5986
    thickness: change, -2 vectors                                        -1.377
    thickness: class kept, -2 vectors                                     0.722
    thickness: change, -1 vectors                                       -0.7943
    thickness: class kept, -1 vectors                                     0.896
    thickness: change, 0 vectors                                              0
    thickness: class kept, 0 vectors                                      0.946
    thickness: change, 1 vectors                                         0.9731
    thickness: class kept, 1 vectors                                      0.938
    thickness: change, 2 vectors                                          2.088
    thickness: class kept, 2 vectors                                      0.884
    thickness: share of digits in which it grows with each vector         0.988
    thickness: change of slant, 2 vectors                                0.0065
    thickness: size of the change, 2 random vectors                       0.288
    thickness: class kept, 2 random vectors                              0.7306
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from recipe import Args, digits, directory, finish, images, in_parts, run
from recipe import train as fit

from gengen.data import to_uint8
from gengen.metrics import classifier
from gengen.metrics.attributes import ATTRIBUTES
from gengen.vae import vae
from gengen.viz import latent
from gengen.viz.grid import save_png

NAME = "attributes"
STRENGTHS = (-2, -1, 0, 1, 2)
SHOWN = (-3, -2, -1, 0, 1, 2, 3)
RANDOM = 10  # vectors to compare with
Found = tuple[dict[str, np.ndarray], np.ndarray]  # attributes, class kept: [strengths, N]


def main(args: Args) -> None:
    """Train, find the vectors, add them, measure, draw."""
    train, test, x = digits()
    cfg = vae.Config(channels=(), hidden=(500,))
    out = directory(args, NAME)
    variables = fit(vae, cfg, train, out, args).variables
    seen = images(train)
    codes = in_parts(partial(vae.encode, cfg, variables), seen)
    z = in_parts(partial(vae.encode, cfg, variables), x)
    decode = partial(in_parts, partial(vae.decode, cfg, variables))

    judge, labels = classifier.load("mnist-v1"), test.arrays["label"]
    spread = {name: measure(x).std() for name, measure in ATTRIBUTES.items()}

    def moved(vector: np.ndarray, strengths: Sequence[int] = STRENGTHS) -> Found:
        """Attributes, in standard deviations, of codes plus the vector; is the class the label?"""
        drawn = [decode((z + s * vector).astype(np.float32)) for s in strengths]
        classes = [judge.probabilities(to_uint8(x)).argmax(1) for x in drawn]
        values = {
            name: np.stack([measure(x) for x in drawn]) / spread[name]
            for name, measure in ATTRIBUTES.items()
        }
        return values, np.stack(classes) == labels

    metrics, random = {}, np.random.default_rng(args.seed)
    for name, measure in ATTRIBUTES.items():
        has = above_median(measure(seen), train.arrays["label"])
        vector = latent.attribute(codes, has)
        others = [moved(v, (0, STRENGTHS[-1])) for v in directions(random, vector)]
        metrics |= rows(name, moved(vector), others)
        pictured(out / f"{name}.png", decode, z, labels, vector)
    finish(NAME, out, metrics, args, tuple(ATTRIBUTES))


def rows(name: str, found: Found, others: Sequence[Found]) -> dict[str, dict[str, float]]:
    """The metrics of an attribute: of its own vector, and of random ones."""
    zero, most = STRENGTHS.index(0), STRENGTHS[-1]
    (values, kept), rows = found, {}
    for i, strength in enumerate(STRENGTHS):
        rows[f"{name}: change, {strength} vectors"] = (values[name][i] - values[name][zero]).mean()
        rows[f"{name}: class kept, {strength} vectors"] = kept[i].mean()
    monotone = np.all(np.diff(values[name], axis=0) > 0, axis=0)
    rows[f"{name}: share of digits in which it grows with each vector"] = monotone.mean()
    for other in values.keys() - {name}:
        change = (values[other][-1] - values[other][zero]).mean()
        rows[f"{name}: change of {other}, {most} vectors"] = change
    changes = [(v[name][-1] - v[name][0]).mean() for v, _ in others]
    rows[f"{name}: size of the change, {most} random vectors"] = np.mean(np.abs(changes))
    shares = [each[-1].mean() for _, each in others]
    rows[f"{name}: class kept, {most} random vectors"] = np.mean(shares)
    return {metric: {"value": float(value)} for metric, value in rows.items()}


def above_median(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which values are above the median of their class: bool [N]."""
    medians = np.array([np.median(values[labels == k]) for k in range(labels.max() + 1)])
    return values > medians[labels]


def directions(draw: np.random.Generator, vector: np.ndarray) -> list[np.ndarray]:
    """Random vectors of the same length."""
    eps = draw.normal(size=(RANDOM, len(vector)))
    return list(eps * np.linalg.norm(vector) / np.linalg.norm(eps, axis=1, keepdims=True))


def pictured(
    path: Path, decode: Any, z: np.ndarray, labels: np.ndarray, vector: np.ndarray
) -> None:
    """A row for the first digit of each class, a column for each strength."""
    rows = [int(np.flatnonzero(labels == k)[0]) for k in range(10)]
    save_png(path, latent.arithmetic(decode, z[rows], vector, SHOWN), scale=2)


if __name__ == "__main__":
    run(main, Args, __doc__)
