"""A number estimated from samples, and how far to trust it."""

from __future__ import annotations

from typing import NamedTuple


class Estimate(NamedTuple):
    """A metric's estimate.

    Attributes:
        value: the estimate.
        standard_error: of `value`, by the choice of the samples; None where it is unknown. It
            does not count a bias that depends on n, as FID's does.
        n: how many samples it was made from; where two sets were compared, the smaller's size.
    """

    value: float
    standard_error: float | None
    n: int
