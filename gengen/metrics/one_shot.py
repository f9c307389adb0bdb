"""N-way one-shot classification: the accuracy of a similarity on classes it may never have met.

A trial draws N classes, one support image of each, and a query: another image of the first of them
(Lake et al. 2011). The query gets the class of the support image that it is most similar to. A tie
counts as the share of the right class among the most similar, so a constant similarity has the
accuracy 1/N of chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gengen.errors import InputError

# (queries [M, ...], supports [M, ...]) -> [M]: the larger, the more similar
Similarity = Callable[[np.ndarray, np.ndarray], Any]


class Trials(NamedTuple):
    """Rows of a data set.

    Attributes:
        query: [T].
        support: [T, N]; the first is of the query's class.
    """

    query: np.ndarray
    support: np.ndarray


def trials(labels: ArrayLike, ways: int, num: int, seed: int = 0,
           groups: ArrayLike | None = None) -> Trials:  # fmt: skip
    """Draw the rows of `num` trials.

    Args:
        labels: class of each example, integers [N].
        ways: classes of a trial, at least 2.
        num: number of trials.
        seed: of the choice.
        groups: group of each example, such as its alphabet [N]: the classes of a trial are of one
            group, as in the paper's protocol for Omniglot. None: of all classes.

    Raises:
        InputError: for fewer than `ways` classes with two examples in every group.
    """
    y = np.asarray(labels)
    group = np.zeros(len(y), int) if groups is None else np.asarray(groups)
    rows = {k: np.flatnonzero(y == k) for k in np.unique(y)}
    members = {
        g: [k for k, found in rows.items() if len(found) > 1 and group[found[0]] == g]
        for g in np.unique(group)
    }
    least = min(map(len, members.values()), default=0)
    if ways < 2 or num < 1 or least < ways:
        raise InputError(
            f"ways = {ways}, num = {num}: there are {least} classes with two examples or more "
            f"{'' if groups is None else 'in a group '}to draw at least 2 from"
        )
    rng, names = np.random.default_rng(seed), list(members)
    query, support = np.empty(num, int), np.empty((num, ways), int)
    for t in range(num):
        classes = rng.choice(members[names[rng.integers(len(names))]], ways, replace=False)
        query[t], support[t, 0] = rng.choice(rows[classes[0]], 2, replace=False)
        support[t, 1:] = [rng.choice(rows[k]) for k in classes[1:]]
    return Trials(query, support)


def alphabets(labels: ArrayLike, classes: Sequence[str]) -> np.ndarray:
    """Return the index of the alphabet of each example's character: int [N].

    Args:
        labels: characters, [N].
        classes: their names, "Greek_0", "Greek_1", ..., as those of Omniglot in TFDS.
    """
    names = [name.rpartition("_")[0] for name in classes]
    return np.unique(names, return_inverse=True)[1][np.asarray(labels)]


def accuracy(similarity: Similarity, codes: ArrayLike, drawn: Trials) -> float:
    """Return the share of trials in which the query is given its class.

    Args:
        similarity: of pairs of codes.
        codes: of the data set's examples, [N, ...].
        drawn: from `trials`.
    """
    codes, (num, ways) = np.asarray(codes), drawn.support.shape
    queries = np.repeat(codes[drawn.query], ways, axis=0)
    found = np.asarray(similarity(queries, codes[drawn.support.reshape(-1)])).reshape(num, ways)
    best = found == found.max(axis=1, keepdims=True)
    return float(np.mean(best[:, 0] / best.sum(axis=1)))


def nearness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return -‖a - b‖² of pairs [M, ...]: the similarity of the nearest neighbour in pixels."""
    return -np.sum((a.astype(np.float64) - b).reshape(len(a), -1) ** 2, axis=1)
