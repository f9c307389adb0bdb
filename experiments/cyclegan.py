"""CycleGAN between two sets of images without pairs: does a translation keep what it shows?

`--task digits`: mnist5k ↔ scikit-learn's digits at 16 pixels; `--task shoes`: sneakers ↔ ankle
boots of Fashion-MNIST at 28 pixels. Digits of both sets are brought to one slant, height and peak
and to similar widths by the moments of each image, which takes no label; those of mnist5k are
blurred first, as the others are known at 8 pixels only. "class" is the share of held-out
translations whose class a classifier of the target's kind confirms: of digits a support vector
machine on histograms of oriented gradients (Dalal & Triggs 2005), fitted to training images and to
random affine versions of them; of shoes `fashion-v1`. Beside CycleGAN: the identity map, and other
weights λ of the cycle (`--weights`, 0 is without). `cycles.png` shows six rows of three triplets
image · translation · reconstruction, both directions. Alignment, classifiers and steps were chosen
on training images that were left out. The times were taken beside other jobs.

    python experiments/cyclegan.py --task digits --results
    python experiments/cyclegan.py --task shoes --weights 1 0 --steps 600 --results

Expected, as measured (results/cyclegan_digits.json), seed 0, two CPU cores, 439 s:

    class, ab, identity                                                   0.862
    class, ba, identity                                                  0.9194
    class, ab, λ = 10                                                     0.854
    reconstruction L1, ab, λ = 10                                         3.053
    class, ba, λ = 10                                                    0.9222
    reconstruction L1, ba, λ = 10                                         2.737
    class, ab, λ = 0                                                      0.696
    reconstruction L1, ab, λ = 0                                          24.46
    class, ba, λ = 0                                                     0.6861
    reconstruction L1, ba, λ = 0                                          17.66
    class, ab, λ = 1                                                      0.858
    reconstruction L1, ab, λ = 1                                          5.164
    class, ba, λ = 1                                                     0.9083
    reconstruction L1, ba, λ = 1                                           3.83
    class, ab, λ = 30                                                      0.86
    reconstruction L1, ab, λ = 30                                         1.225
    class, ba, λ = 30                                                    0.9333
    reconstruction L1, ba, λ = 30                                         1.231

Expected, as measured (results/cyclegan_shoes.json), seed 0, two CPU cores, 558 s:

    class, ab, identity                                                   0.016
    class, ba, identity                                                   0.042
    class, ab, λ = 1                                                      0.987
    reconstruction L1, ab, λ = 1                                          6.602
    class, ba, λ = 1                                                      0.838
    reconstruction L1, ba, λ = 1                                          10.19
    class, ab, λ = 0                                                      0.999
    reconstruction L1, ab, λ = 0                                           19.1
    class, ba, λ = 0                                                      0.965
    reconstruction L1, ba, λ = 0                                          29.46
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from recipe import Args, directory, finish, images, run, train
from scipy import ndimage

from gengen.contract import DIRECTIONS, Task, default_config
from gengen.data import Dataset, load, to_uint8
from gengen.gan import cyclegan
from gengen.metrics import classifier
from gengen.runs import translations
from gengen.viz.grid import save_png

SIDE, SPREAD = 16, (3.6, 2.232)  # of aligned digits; standard deviations of ink, in pixels
BLUR = {"mnist5k": 0.6, "digits": 0.0}  # standard deviation, in pixels of the original
COPIES = {"a": 1, "b": 5}  # random affine versions of each training digit, for the classifiers
ORIENTATIONS, CELL, POOL = 8, 4, 1.5  # of the histograms: bins, spacing, width in pixels
Predict = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Settings(Args):
    """Settings of the recipe."""

    task: Literal["digits", "shoes"] = "digits"
    """What is translated."""
    weights: tuple[float, ...] = (10.0, 0.0, 1.0, 30.0)
    """λ of each model, that of the picture first."""
    steps: int = 400
    """Train steps of each model."""


def main(args: Settings) -> None:
    """Train with each weight, translate held-out images, score, draw."""
    name = f"cyclegan_{args.task}"
    (a, b), (held_a, held_b) = (_sets(args.task, end) for end in ("", ":test"))
    data = Dataset(name, {"image": a.arrays["image"], "other": b.arrays["image"]})
    judges, want = _judges(args.task, a, b)
    held, out, metrics = {"ab": held_a, "ba": held_b}, directory(args, name), {}
    for way in DIRECTIONS:
        made = held[way].arrays["image"]
        metrics[f"class, {way}, identity"] = {
            "value": _share(judges[way], made, want(held[way], way))
        }
    cfg = default_config(cyclegan.Config, Task(data.shape, other_shape=data.other_shape))
    for weight in args.weights:
        path = out if weight == args.weights[0] else out / f"weight_{weight:g}"
        own = dataclasses.replace(cfg, cycle_weight=weight)
        trained, blocks = train(cyclegan, own, data, path, args), []
        for way in DIRECTIONS:
            now, x = cyclegan.with_direction(own, way), images(held[way])
            columns = translations.of_images(cyclegan, now, trained.variables, x)
            share = _share(judges[way], to_uint8(columns[1]), want(held[way], way))
            metrics[f"class, {way}, λ = {weight:g}"] = {"value": share}
            error = float(np.abs(columns[2] - x).mean() * 127.5)
            metrics[f"reconstruction L1, {way}, λ = {weight:g}"] = {"value": error}
            blocks.append([each[:9] for each in columns])
        if weight == args.weights[0]:
            both = [np.concatenate(parts) for parts in zip(*blocks, strict=True)]
            save_png(out / "cycles.png", translations.stacked(both), scale=2)
    finish(name, out, metrics, args, ("cycles",))


def _sets(task: str, end: str) -> tuple[Dataset, Dataset]:
    """Return both kinds of images, aligned."""
    if task == "shoes":
        found = (load(f"fashion{end}:classes={k}") for k in (7, 9))
    else:
        found = (aligned(load(f"{name}{end}"), blur) for name, blur in BLUR.items())
    a, b = found
    return a, b


def aligned(data: Dataset, blur: float) -> Dataset:
    """Return digits with one slant, height and peak, centred, at `SIDE` pixels."""
    image = np.stack([_aligned(x[..., 0].astype(float), blur) for x in data.arrays["image"]])
    return Dataset(data.name, {"image": image[..., None], "label": data.arrays["label"]})


def _aligned(x: np.ndarray, blur: float) -> np.ndarray:
    """Return one digit [H, W] → uint8 [SIDE, SIDE], by its first and second moments.

    The columns' scale is halfway (in its logarithm) between the rows' and one width for all.
    """
    x = ndimage.gaussian_filter(x, blur)
    row, column = np.mgrid[: x.shape[0], : x.shape[1]]
    ink = x / x.sum()
    middle = np.array([(ink * row).sum(), (ink * column).sum()])
    variance = (ink * (row - middle[0]) ** 2).sum()
    shear = (ink * (row - middle[0]) * (column - middle[1])).sum() / variance
    upright = column - middle[1] - shear * (row - middle[0])
    rows = np.sqrt(variance) / SPREAD[0]
    columns = np.sqrt(rows * np.sqrt((ink * upright**2).sum()) / SPREAD[1])
    matrix = np.array([[rows, 0.0], [rows * shear, columns]])
    start: Any = middle - matrix @ np.full(2, (SIDE - 1) / 2)
    y = ndimage.affine_transform(x, matrix, start, output_shape=(SIDE, SIDE), order=1)
    return np.rint(255 * y / max(y.max(), 1e-6)).astype(np.uint8)


def _judges(task: str, a: Dataset, b: Dataset) -> tuple[dict[str, Predict], Callable]:
    """Return the classifier of each direction's target kind, and the classes that are wanted."""
    if task == "shoes":
        known = classifier.load("fashion-v1")
        judge = lambda x: known.probabilities(x).argmax(1)  # noqa: E731
        wanted = {"ab": 9, "ba": 7}
        return {way: judge for way in DIRECTIONS}, lambda data, way: np.full(len(data), wanted[way])
    found = {"ab": _fitted(b, COPIES["b"]), "ba": _fitted(a, COPIES["a"])}
    return found, lambda data, way: data.arrays["label"]


def _fitted(data: Dataset, copies: int) -> Predict:
    """Return a classifier of aligned digits."""
    from sklearn.svm import SVC

    image, label = data.arrays["image"], data.arrays["label"]
    rng = np.random.default_rng(0)
    more = [np.stack([_moved(x[..., 0], rng) for x in image])[..., None] for _ in range(copies)]
    svm = SVC(C=10).fit(_histograms(np.concatenate([image, *more])), np.tile(label, copies + 1))
    return lambda x: svm.predict(_histograms(x))


def _histograms(x: np.ndarray) -> np.ndarray:
    """Return the histograms of gradients' orientations around a grid of points, [B, D]."""
    dy, dx = np.gradient(x[..., 0] / 255.0, axis=(1, 2))
    turn = np.mod(np.arctan2(dy, dx) / (2 * np.pi), 1.0) * ORIENTATIONS
    low, part = np.floor(turn).astype(int), turn - np.floor(turn)
    bins = np.arange(ORIENTATIONS)
    share = (low[..., None] % ORIENTATIONS == bins) * (1 - part)[..., None]
    share = share + ((low[..., None] + 1) % ORIENTATIONS == bins) * part[..., None]
    votes = ndimage.gaussian_filter(np.hypot(dy, dx)[..., None] * share, (0, POOL, POOL, 0))
    found = votes[:, 1::CELL, ::CELL].reshape(len(x), -1)
    return np.sqrt(found / (found.sum(1, keepdims=True) + 1e-6))


def _moved(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a digit that is turned, scaled, sheared, moved and perhaps blurred at random."""
    turn, scale = rng.normal(0, 0.12), np.exp(rng.normal(0, 0.1, 2))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = rotation @ np.array([[scale[0], 0.0], [rng.normal(0, 0.15), scale[1]]])
    middle = np.full(2, (SIDE - 1) / 2)
    start: Any = middle - matrix @ middle + rng.normal(0, 0.5, 2)
    y = ndimage.affine_transform(x.astype(float), matrix, start, order=1)
    if rng.random() < 0.5:
        y = ndimage.gaussian_filter(y, rng.uniform(0, 0.8))
    return np.clip(255 * y / max(y.max(), 1.0), 0, 255)


def _share(judge: Predict, made: np.ndarray, want: np.ndarray) -> float:
    return float((judge(made) == want).mean())


if __name__ == "__main__":
    run(main, Settings, __doc__)
