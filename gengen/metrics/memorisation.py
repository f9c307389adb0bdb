"""Are samples copies of training examples?"""

from __future__ import annotations

from typing import Any

import numpy as np

from gengen.types import InputError

BLOCK = 500  # samples at a time


def nearest_distances(x: Any, training: Any) -> np.ndarray:
    """Euclidean distance of each x [N, ...] to the nearest training example [M, ...]: [N].

    Images as uint8 count in units of the full range, 255. Compare with the same for real held-out
    data: clearly smaller distances mean that the model repeats what it has seen.
    """
    return nearest(x, training)[0]


def nearest(x: Any, training: Any) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the nearest training example, float64 [N], and its row, int [N].

    Args:
        x: [N, ...].
        training: [M, ...], the same shape and kind.

    Raises:
        InputError: for other shapes, no examples, or one in uint8 and the other not.
    """
    x, training = np.asarray(x), np.asarray(training)
    if x.shape[1:] != training.shape[1:] or 0 in (x.size, training.size):
        raise InputError(
            f"x has shape {x.shape} and training {training.shape}: give [N, ...] and [M, ...]"
        )
    if (x.dtype == np.uint8) != (training.dtype == np.uint8):
        raise InputError(
            f"x is {x.dtype} and training {training.dtype}: give both as uint8, or both as floats"
        )
    b = _flat(training)
    squared_norms = np.einsum("md,md->m", b, b)
    distances, rows = np.empty(len(x)), np.empty(len(x), np.int64)
    for start in range(0, len(x), BLOCK):
        part = slice(start, start + BLOCK)
        a = _flat(x[part])
        rows[part] = (squared_norms - 2 * a @ b.T).argmin(axis=1)
        # Once more for the nearest, without the cancellation of the expanded square.
        distances[part] = np.sqrt(((a - b[rows[part]]) ** 2).sum(axis=1))
    return distances, rows


def copied_share(*, fake: Any, training: Any, held_out: Any, quantile: float = 0.01) -> float:
    """Share of samples nearer to a training example than all but 1 % of real held-out data is.

    Floor: `quantile` itself, what as many real held-out examples would have. A model that draws
    only typical examples, all of them new, passes it as well: look at the pairs.

    Args:
        fake: samples [N, ...].
        training: what the model was trained on [M, ...].
        held_out: real examples it was not trained on [K, ...].
        quantile: of the held-out distances, in (0, 1).
    """
    if not 0 < quantile < 1:
        raise InputError(f"quantile = {quantile}, but it is between 0 and 1")
    edge = np.quantile(nearest_distances(held_out, training), quantile)
    return float(np.mean(nearest_distances(fake, training) < edge))


def _flat(x: np.ndarray) -> np.ndarray:
    scale = 255.0 if x.dtype == np.uint8 else 1.0
    return x.reshape(len(x), -1).astype(np.float64) / scale
