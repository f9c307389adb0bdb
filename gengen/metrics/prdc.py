r"""Precision and recall, density and coverage: are samples good, and are all kinds there?

Kynkäänniemi et al. 2019, *Improved Precision and Recall* (1904.06991); Naeem et al. 2020, *Reliable
Fidelity and Diversity Metrics* (2002.09797). A set's manifold is the union of the balls B about its
points, each as wide as the distance to the point's k-th nearest neighbour in the same set (itself
aside):

    precision   share of fakes in the ball of some real           recall   the same, parts exchanged
    density     mean number of real balls that a fake is in, / k  (can pass 1)
    coverage    share of reals with a fake in their ball

Precision and recall count a point on a ball's edge as inside, density and coverage do not: that is
how each paper's code has it, and it matters for copies and for features on a lattice. An outlier's
wide ball spoils precision and recall; coverage of real against real is about 1 - 2^-k. All four
depend on the sets' sizes: compare equal ones only, and with the floor of real held-out examples.

k is 3 in the first paper and 5 in the second: choose, and say which.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from gengen.metrics.checks import check_pair
from gengen.metrics.resampling import GROUPS, groups_of, jackknife, of_share
from gengen.types import InputError

BLOCK = 200  # rows of the matrix of distances at a time: few enough for memory
# Squared distances from a matrix product are off by rounding: so much, relative to the squared
# norms. What is nearer than that to a ball's edge is on it, so copies and lattices come out right;
# points that differ by a millionth of their norm count as copies.
_ROUNDING = 1e-12


class PRDC(NamedTuple):
    """The four, each in [0, 1], density aside, which is only ≥ 0; and the sizes of the sets.

    `errors` are their standard errors by the choice of both sets, from the jackknife over groups;
    None where they were not asked for.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    num_real: int
    num_fake: int
    errors: tuple[float, float, float, float] | None = None


def prdc(*, real: Any, fake: Any, k: int = 5, errors: bool = False) -> PRDC:
    """Precision, recall, density and coverage.

    Args:
        real: features [N, D], N > k.
        fake: features [M, D], M > k.
        k: which neighbour makes a ball's radius.
        errors: estimate standard errors too; it takes some times as long.

    Raises:
        InputError: for fewer, NaN, or differing D.
    """
    if k < 1:
        raise InputError(f"k = {k}, but the nearest neighbour is k = 1")
    x, y = check_pair(real, fake, at_least=k + 1)
    centre = x.mean(axis=0)  # the nearer to 0, the less rounding
    x, y = x - centre, y - centre
    of_x, of_y = (groups_of(len(z)) for z in (x, y))
    parts = [(np.arange(len(x)), np.arange(len(y)))]  # all, then without each group of either set
    if errors and min(len(x), len(y)) - GROUPS > k:
        parts += [(np.flatnonzero(of_x != g), parts[0][1]) for g in range(of_x.max() + 1)]
        parts += [(parts[0][0], np.flatnonzero(of_y != g)) for g in range(of_y.max() + 1)]
    found = _four(x, y, k, parts)
    spread = None
    if len(parts) > 1:
        split = 1 + of_x.max() + 1
        halves = jackknife(found[1:split]), jackknife(found[split:])
        spread = _at_the_ends(found[0], np.hypot(*halves), len(x), len(y))
    precision, recall, density, coverage = found[0].tolist()
    return PRDC(precision, recall, density, coverage, len(x), len(y), spread)


def _at_the_ends(
    four: np.ndarray, errors: np.ndarray, num_real: int, num_fake: int
) -> tuple[float, float, float, float]:
    """Replace errors of 0, where all or no examples count, by those of such a share."""
    sizes = (num_fake, num_real, num_fake, num_real)
    one, two, three, four_ = (
        float(e) if e > 0 else of_share(min(float(v), 1.0), n)
        for v, e, n in zip(four, errors, sizes, strict=True)
    )
    return one, two, three, four_


def _four(
    x: np.ndarray, y: np.ndarray, k: int, parts: list[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Return precision, recall, density and coverage of each part, [parts, 4].

    Args:
        x: real features.
        y: fake features.
        k: which neighbour makes a ball's radius.
        parts: rows of x and rows of y.
    """
    real, fake = _Balls(x, k, [rows for rows, _ in parts]), _Balls(y, k, [r for _, r in parts])
    in_real = np.zeros((len(parts), len(y)), bool)
    balls = np.zeros((len(parts), len(y)), np.int64)
    in_fake, covered = (np.zeros((len(parts), len(x)), bool) for _ in range(2))
    masks = [np.isin(np.arange(len(x)), rows) for rows, _ in parts]
    for rows, squares in _squared_distances(x, y):
        slack = real.slack[rows, None] + fake.slack
        for i, (_, columns) in enumerate(parts):
            kept = np.arange(rows.start, rows.start + len(squares))[masks[i][rows]]
            near, room = squares[masks[i][rows]][:, columns], slack[masks[i][rows]][:, columns]
            edge = real.square[i][kept, None]
            in_real[i, columns] |= (near <= edge + room).any(axis=0)
            in_fake[i, kept] = (near <= fake.square[i][columns] + room).any(axis=1)
            inside = near < edge - room
            balls[i, columns] += inside.sum(axis=0)
            covered[i, kept] = inside.any(axis=1)
    return np.array(
        [
            (in_real[i, columns].mean(), in_fake[i, kept].mean(), balls[i, columns].mean() / k,
             covered[i, kept].mean())
            for i, (kept, columns) in enumerate(parts)
        ]
    )  # fmt: skip


class _Balls:
    """Squared radii about the rows of x [N, D], and how much of them may be rounding.

    Attributes:
        square: of each part of the rows, [parts, N]; infinite for rows outside of it.
        slack: [N].
    """

    def __init__(self, x: np.ndarray, k: int, parts: list[np.ndarray]) -> None:
        from sklearn.neighbors import NearestNeighbors  # a tree in few dimensions

        # A group left out takes some of a point's neighbours away: so many more are looked up.
        many = k if len(parts) == 1 else min(len(x) - 1, 2 * k + 15)
        distances, neighbours = NearestNeighbors(n_neighbors=many).fit(x).kneighbors()  # not itself
        self.square = np.full((len(parts), len(x)), np.inf)
        for i, rows in enumerate(parts):
            there = np.isin(np.arange(len(x)), rows)[neighbours[rows]]
            last = np.argmax(np.cumsum(there, axis=1) >= k, axis=1)
            self.square[i, rows] = distances[rows, last] ** 2
        # The neighbour's own norm is at most this point's and the radius together.
        self.slack = _ROUNDING * (3 * np.einsum("nd,nd->n", x, x) + 2 * self.square[0])


def _squared_distances(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """‖xᵢ - yⱼ‖² for BLOCK rows i and all j: (slice of i, float64 [rows, M])."""
    of_x, of_y = (np.einsum("nd,nd->n", z, z) for z in (x, y))
    for start in range(0, len(x), BLOCK):
        rows = slice(start, start + BLOCK)
        squares = -2 * x[rows] @ y.T
        for row, own in zip(squares, of_x[rows], strict=True):  # each stays in the cache
            row += own
            row += of_y
            np.maximum(row, 0, out=row)
        yield rows, squares
