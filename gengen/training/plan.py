"""When things happen in a run: steps of each stage, steps between events."""

from __future__ import annotations

import math

import numpy as np

from gengen.compile import devices_for
from gengen.data import AnyData
from gengen.training.augmentation import check_flip
from gengen.training.engine import Engine
from gengen.types import InputError


def shares(steps: int, parts: list[float]) -> list[int]:
    """Split the steps among stages; every stage has at least one.

    Raises:
        InputError: if there are fewer steps than stages.
    """
    if steps < len(parts):
        raise InputError(f"steps = {steps}, but each of the {len(parts)} stages needs one")
    ends = np.rint(np.cumsum(parts) / sum(parts) * (steps - len(parts))).astype(int)
    return [int(n) + 1 for n in np.diff(ends, prepend=0)]


def intervals(
    asked: dict[str, int | None], steps: int, inner: int, before: dict[str, int]
) -> dict[str, int]:
    """Steps between events: as asked, else as before a resume, else so many in all."""
    number = {"log": 200, "save": 10, "preview": 8}
    chosen = {k: v or before.get(k) or max(1, steps // number[k]) for k, v in asked.items()}
    return {k: math.ceil(v / inner) * inner for k, v in chosen.items()}


def check_positive(**numbers: int | None) -> None:
    """Check that the numbers given are at least 1.

    Raises:
        InputError: naming one that is not.
    """
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise InputError(f"{name} = {number}, but it must be at least 1")


def check_batch(engine: Engine, data: AnyData, batch_size: int) -> None:
    """Check that the devices can share a batch equally, and that it can be mirrored if asked to.

    Raises:
        InputError: if not, or if there are no such devices.
    """
    if engine.flip:
        check_flip(data)
    num_devices = len(devices_for(engine.mode, engine.num_devices))
    if batch_size % (num_devices * engine.accumulate):
        parts = f", each taking {engine.accumulate} parts" if engine.accumulate > 1 else ""
        raise InputError(
            f"batch_size = {batch_size} is no multiple of the {num_devices} devices{parts}"
        )
