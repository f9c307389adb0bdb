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
from gengen.types import InputError

BLOCK = 200  # rows of the matrix of distances at a time: few enough for memory
# Squared distances from a matrix product are off by rounding: so much, relative to the squared
# norms. What is nearer than that to a ball's edge is on it, so copies and lattices come out right;
# points that differ by a millionth of their norm count as copies.
_ROUNDING = 1e-12


class PRDC(NamedTuple):
    """The four, each in [0, 1], density aside, which is only ≥ 0; and the sizes of the sets."""

    precision: float
    recall: float
    density: float
    coverage: float
    num_real: int
    num_fake: int


def prdc(*, real: Any, fake: Any, k: int = 5) -> PRDC:
    """Precision, recall, density and coverage.

    Args:
        real: features [N, D], N > k.
        fake: features [M, D], M > k.
        k: which neighbour makes a ball's radius.

    Raises:
        InputError: for fewer, NaN, or differing D.
    """
    if k < 1:
        raise InputError(f"k = {k}, but the nearest neighbour is k = 1")
    x, y = check_pair(real, fake, at_least=k + 1)
    centre = x.mean(axis=0)  # the nearer to 0, the less rounding
    x, y = x - centre, y - centre
    real_radii, fake_radii = _Balls(x, k), _Balls(y, k)
    in_real, in_fake = np.zeros(len(y), bool), np.empty(len(x), bool)
    balls, covered = np.zeros(len(y), np.int64), np.empty(len(x), bool)
    for rows, squares in _squared_distances(x, y):
        edge = real_radii.square[rows, None]
        slack = real_radii.slack[rows, None] + fake_radii.slack
        in_real |= (squares <= edge + slack).any(axis=0)
        in_fake[rows] = (squares <= fake_radii.square + slack).any(axis=1)
        inside = squares < edge - slack
        balls += inside.sum(axis=0)
        covered[rows] = inside.any(axis=1)
    return PRDC(
        float(in_real.mean()), float(in_fake.mean()), float(balls.mean() / k),
        float(covered.mean()), len(x), len(y),
    )  # fmt: skip


class _Balls:
    """Squared radii [N] about the rows of x [N, D], and what of them may be rounding."""

    def __init__(self, x: np.ndarray, k: int) -> None:
        from sklearn.neighbors import NearestNeighbors  # a tree in few dimensions

        distances, _ = NearestNeighbors(n_neighbors=k).fit(x).kneighbors()  # itself aside
        self.square = distances[:, -1] ** 2
        # The neighbour's own norm is at most this point's and the radius together.
        self.slack = _ROUNDING * (3 * np.einsum("nd,nd->n", x, x) + 2 * self.square)


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
