"""Are samples copies of training examples?"""

from __future__ import annotations

import numpy as np


def nearest_distances(x: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Euclidean distance of each x [N, ...] to the nearest training example [M, ...]: [N].

    Images as uint8 count in units of the full range, 255. Compare with the same for real held-out
    data: clearly smaller distances mean that the model repeats what it has seen.
    """
    a, b = _flat(x), _flat(training)
    squares = (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)
    nearest = squares.argmin(axis=1)
    # Once more for the nearest, without the cancellation of the expanded square.
    return np.sqrt(((a - b[nearest]) ** 2).sum(1))


def _flat(x: np.ndarray) -> np.ndarray:
    scale = 255.0 if x.dtype == np.uint8 else 1.0
    return x.reshape(len(x), -1).astype(np.float64) / scale
