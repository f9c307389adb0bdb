"""Digits of one source, read by a classifier that has only seen labels of another.

Glorot, Bordes & Bengio 2011 (ICML), Chen et al. 2012 (1206.4683): features are fitted to the images
of both sources, without labels; a linear classifier on them to the labels of the first. The sources
are MNIST's digits (mnist5k, the 20×20 box that holds them, averaged to 8×8) and scikit-learn's
(8×8): other writers, pens, scanners. The strength of the classifier's penalty is chosen on 500 of
the first source's training digits: no label of the second is used but to count.

Expected, as measured (results/domain_adaptation.json), seed 0, two CPU cores, 265 s:

    accuracy on digits, labels of mnist5k, raw pixels                    0.5843
    accuracy on held-out mnist5k, raw pixels                              0.904
    accuracy on digits, labels of mnist5k, mSDA, 3 layers                0.6472
    accuracy on held-out mnist5k, mSDA, 3 layers                          0.918
    accuracy on digits, labels of mnist5k, denoising autoencoder, 1 × 200 ReLU   0.7529
    accuracy on held-out mnist5k, denoising autoencoder, 1 × 200 ReLU     0.944
    accuracy on digits, labels of mnist5k, denoising autoencoder, 2 × 200 ReLU   0.6962
    accuracy on held-out mnist5k, denoising autoencoder, 2 × 200 ReLU      0.93
    accuracy on digits, labels of mnist5k, denoising autoencoder, 3 × 200 ReLU   0.7168
    accuracy on held-out mnist5k, denoising autoencoder, 3 × 200 ReLU     0.936
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from recipe import Args, directory, finish, run
from recipe import train as fit

from gengen.autoencoder import marginalized, stacked
from gengen.data import Dataset, load

NAME = "domain_adaptation"
PENALTIES = (0.1, 1.0, 10.0)  # scikit-learn's C
LAYERS = 3  # of the stack; those before the last one are features of their own
CHOOSE = 500  # training digits of the source, the last, that choose it
Features = Callable[[np.ndarray], np.ndarray]  # uint8 [N, 8, 8, 1] → [N, D]


def main(args: Args) -> None:
    """Pixels, mSDA and stacks of one to three denoising layers, one classifier."""
    source, held_out = boxed("mnist5k"), boxed("mnist5k:test")
    target = joined(load("digits"), load("digits:test"))
    both = joined(source, target)

    deep = stacked.Config(
        shape=(8, 8, 1), hidden=(200,) * LAYERS, activation="relu", mask_fraction=0.5, num_classes=0
    )
    out, layers = directory(args, NAME), stacked.stages(deep)[:-1]
    learnt = fit(stacked, deep, both, out, args, layers).variables
    states: Any = {name: SimpleNamespace(params=each["params"]) for name, each in learnt.items()}
    three = marginalized.Config(num_layers=3)
    closed = marginalized.fit(three, floats(both.arrays["image"]))

    def codes(images: np.ndarray, num: int) -> np.ndarray:
        found = stacked.codes(deep, states, Dataset("images", {"image": images}), num)
        assert isinstance(found, Dataset)
        return found.arrays["x"]

    features: dict[str, Features] = {
        "raw pixels": lambda images: images.reshape(len(images), -1) / 255,
        "mSDA, 3 layers": lambda x: np.asarray(marginalized.transform(three, closed, floats(x))),
    }
    for num in range(1, LAYERS + 1):
        title = f"denoising autoencoder, {num} × 200 ReLU"
        features[title] = lambda images, num=num: codes(images, num)
    metrics = {}
    for name, function in features.items():
        home, away = judged(function, source, held_out, target)
        metrics[f"accuracy on digits, labels of mnist5k, {name}"] = {"value": away}
        metrics[f"accuracy on held-out mnist5k, {name}"] = {"value": home}
    finish(NAME, out, metrics, args)


def boxed(spec: str) -> Dataset:
    """The 20×20 box in the middle, which holds an MNIST digit, averaged to 8×8."""
    data = load(spec)
    box = data.arrays["image"][:, 4:24, 4:24, 0]
    halves = np.repeat(np.repeat(box, 2, axis=1), 2, axis=2)  # a cell is 2½ pixels wide: 5 halves
    small = halves.reshape(-1, 8, 5, 8, 5).mean(axis=(2, 4)).round().astype(np.uint8)
    return Dataset(data.name, {**data.arrays, "image": small[..., None]}, data.classes)


def joined(a: Dataset, b: Dataset) -> Dataset:
    """The examples of both."""
    arrays = {name: np.concatenate([a.arrays[name], b.arrays[name]]) for name in a.arrays}
    return Dataset(f"{a.name} and {b.name}", arrays, a.classes)


def floats(images: np.ndarray) -> np.ndarray:
    """From uint8 to [-1, 1]."""
    return (images / 127.5 - 1).astype(np.float32)


def judged(f: Features, source: Dataset, held_out: Dataset, target: Dataset) -> tuple[float, float]:
    """Accuracy at home and on the target, of the penalty that does best on a part of the source."""
    from sklearn.linear_model import LogisticRegression

    x, home, away = (f(d.arrays["image"]) for d in (source, held_out, target))
    y, best, kept = source.arrays["label"], None, -1.0
    for C in PENALTIES:
        reader = LogisticRegression(C=C, max_iter=200)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 200 steps need not converge
            reader.fit(x[:-CHOOSE], y[:-CHOOSE])
        score = float(reader.score(x[-CHOOSE:], y[-CHOOSE:]))
        if score > kept:
            best, kept = reader, score
    assert best is not None
    return (
        float(best.score(home, held_out.arrays["label"])),
        float(best.score(away, target.arrays["label"])),
    )


if __name__ == "__main__":
    run(main, Args, __doc__)
