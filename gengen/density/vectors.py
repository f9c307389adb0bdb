"""Examples as the rows of a matrix, and what a fit must know of them before it starts."""

from __future__ import annotations

import numpy as np
from jax.typing import ArrayLike

from gengen.types import Array, InputError, Shape, check_shape


def vectors(shape: Shape, x: ArrayLike) -> Array:
    """Return x [B, *shape] as vectors [B, D].

    Raises:
        InputError: for another shape.
    """
    x = check_shape({"x": x}, shape)
    return x.reshape(x.shape[0], -1)


def require_rows(x: ArrayLike, least: int, why: str) -> None:
    """Check that x [N, D] has at least `least` rows and holds finite numbers only.

    Args:
        x: the data.
        least: number of rows.
        why: what asks for so many, such as "num_clusters = 8".

    Raises:
        InputError: naming the number of rows, or the first one that is not finite.
    """
    data = np.asarray(x)
    if len(data) < least:
        raise InputError(f"x has {len(data)} rows; {why} needs at least {least}")
    bad = ~np.isfinite(data).all(1)
    if bad.any():
        raise InputError(f"x has a number that is not finite, in row {int(bad.argmax())}")
