"""Two-dimensional sets by formula: what a model has learnt of them can be seen in one picture.

Each is a function (rng, num) -> (x float32 [num, 2], label int32 [num]), examples independent of
each other. `ring8` and `grid25` also give away their modes, for metrics that count them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gengen.data.dataset import Dataset

Sampler = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]

NUM_EXAMPLES = {"train": 20_000, "test": 5_000}
SEED = 0
_STREAM = {"train": 0, "test": 1}  # of the seed: the splits are independent

# Metz et al. 2017 (Unrolled GANs, 1611.02163): 8 Gaussians on a circle. VEEGAN (1705.07761) has
# the same ring at half the size, radius 1 and standard deviation 0.01.
RING8_RADIUS = 2.0
RING8_STD = 0.02

# VEEGAN: 25 Gaussians on a grid of spacing 2.
GRID25_COORDINATES = (-4.0, -2.0, 0.0, 2.0, 4.0)
GRID25_STD = 0.05

# ELKI's mickey-mouse.xml, in its unit square: examples in 500, mean, standard deviation. Noise is
# uniform there and its density counts 50-fold when a point is given to the part most likely to
# have made it. Only points given back to their own part are kept: the head is a Gaussian cut
# off at a radius of about 0.26, the ears at 0.11, and there is no noise inside.
MOUSE_CLASSES = ("head", "left ear", "right ear", "noise")
MOUSE_COUNTS = (290, 100, 100, 10)
MOUSE_MEANS = ((0.5, 0.5), (0.25, 0.75), (0.75, 0.75))
MOUSE_STDS = (0.2, 0.05, 0.05)
MOUSE_NOISE_CORRECTION = 50.0
# From the unit square to [-2, 2]², centred and about as wide as the other sets.
MOUSE_SCALE = 4.0

# FFJORD's settings (Grathwohl et al. 2019, 1810.01367) of scikit-learn's formulas.
MOONS_STD = 0.1  # before the scaling
MOONS_SCALE = 2.0
MOONS_SHIFT = (-1.0, -0.2)
SWISS_ROLL_STD = 1.0  # before the scaling
SWISS_ROLL_SCALE = 0.2


def mouse(rng: np.random.Generator, num: int) -> tuple[np.ndarray, np.ndarray]:
    """ELKI's mouse: a wide head and two dense ears, with 2 % noise around; in [-2, 2]².

    The classic example of k-means splitting the head where EM does not. As in ELKI, a point is
    drawn again until the part that it was drawn from is the most likely one (see MOUSE_COUNTS).

    Args:
        rng: source of randomness.
        num: number of examples.

    Returns:
        x float32 [num, 2], label int32 [num] (an index of MOUSE_CLASSES).
    """
    label = rng.choice(len(MOUSE_COUNTS), size=num, p=np.array(MOUSE_COUNTS) / sum(MOUSE_COUNTS))
    x = np.empty((num, 2))
    left = np.arange(num)
    while len(left):  # each round keeps about six in ten
        x[left] = _mouse_proposal(rng, label[left])
        left = left[~_mouse_kept(x[left], label[left])]
    return _result((x - 0.5) * MOUSE_SCALE, label)


def ring8(rng: np.random.Generator, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Eight Gaussians, standard deviation 0.02, on the circle of radius 2; label: which one."""
    label = rng.integers(8, size=num)
    return _result(ring8_centres()[label] + RING8_STD * rng.standard_normal((num, 2)), label)


def ring8_centres() -> np.ndarray:
    """Means of `ring8`, float64 [8, 2], anticlockwise from (2, 0)."""
    angle = 2 * np.pi * np.arange(8) / 8
    return RING8_RADIUS * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def grid25(rng: np.random.Generator, num: int) -> tuple[np.ndarray, np.ndarray]:
    """25 Gaussians, standard deviation 0.05, at {-4, -2, 0, 2, 4}²; label: which one."""
    label = rng.integers(25, size=num)
    return _result(grid25_centres()[label] + GRID25_STD * rng.standard_normal((num, 2)), label)


def grid25_centres() -> np.ndarray:
    """Means of `grid25`, float64 [25, 2], column by column."""
    first, second = np.meshgrid(GRID25_COORDINATES, GRID25_COORDINATES, indexing="ij")
    return np.stack([first.ravel(), second.ravel()], axis=1)


def moons(rng: np.random.Generator, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Two interleaved half circles with noise, in about [-3.5, 3.5] × [-2, 2]; label: which."""
    label = rng.integers(2, size=num)
    angle = np.pi * rng.random(num)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    x = np.where(label[:, None] == 0, upper, lower) + MOONS_STD * rng.standard_normal((num, 2))
    return _result(x * MOONS_SCALE + np.array(MOONS_SHIFT), label)


def checkerboard(rng: np.random.Generator, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Uniform on the 8 dark squares, of side 2, of a board on [-4, 4]²; label: which square."""
    label = rng.integers(8, size=num)
    column, row = label // 2, 2 * (label % 2) + (label // 2) % 2
    corner = np.stack([column, row], axis=1) - 2
    return _result(2.0 * (corner + rng.random((num, 2))), label)


def swiss_roll(rng: np.random.Generator, num: int) -> tuple[np.ndarray, np.ndarray]:
    """A spiral of one and a half turns with noise, in about [-3, 3]²; label: which half turn."""
    along = 3 * rng.random(num)  # in half turns
    angle = np.pi * (1.5 + along)
    spiral = angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x = spiral + SWISS_ROLL_STD * rng.standard_normal((num, 2))
    return _result(x * SWISS_ROLL_SCALE, along.astype(np.int32))


SAMPLERS: dict[str, Sampler] = {
    "mouse": mouse,
    "ring8": ring8,
    "grid25": grid25,
    "moons": moons,
    "checkerboard": checkerboard,
    "swiss_roll": swiss_roll,
}


def load_toy(name: str, split: str) -> Dataset:
    """A set of fixed examples: 20,000 to train on, 5,000 independent ones to test on.

    Args:
        name: one of SAMPLERS.
        split: "train" or "test".
    """
    rng = np.random.default_rng([SEED, _STREAM[split]])
    x, label = SAMPLERS[name](rng, NUM_EXAMPLES[split])
    classes = MOUSE_CLASSES if name == "mouse" else None
    return Dataset(f"{name}:{split}", {"x": x, "label": label}, classes)


def _result(x: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.astype(np.float32), label.astype(np.int32)


def _mouse_proposal(rng: np.random.Generator, label: np.ndarray) -> np.ndarray:
    """One point of each label's part, before the cut: [n, 2] in units of ELKI's square."""
    means, stds = np.array([*MOUSE_MEANS, (0.0, 0.0)]), np.array([*MOUSE_STDS, 0.0])
    normal = means[label] + stds[label, None] * rng.standard_normal((len(label), 2))
    uniform = rng.random((len(label), 2))
    return np.where(label[:, None] == len(MOUSE_MEANS), uniform, normal)


def _mouse_kept(x: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Whether each point lies in the unit square and its part is the most likely: bool [n]."""
    counts, stds = np.array(MOUSE_COUNTS), np.array(MOUSE_STDS)
    square = ((x[:, None, :] - np.array(MOUSE_MEANS)) ** 2).sum(-1) / stds**2
    gaussians = counts[:-1] * np.exp(-square / 2) / (2 * np.pi * stds**2)
    noise = np.full((len(x), 1), counts[-1] * MOUSE_NOISE_CORRECTION)
    most_likely = np.concatenate([gaussians, noise], axis=1).argmax(axis=1)
    return (most_likely == label) & np.all((x >= 0) & (x <= 1), axis=1)
